//! What the specifications say of frames, clause by clause.

use bytes::{Bytes, BytesMut};

use crate::message::{Headers, Refusal};

use super::*;

const LIMITS: Limits = Limits { headers: 10, header_bytes: 200, body: 100, frame: None };

/// Every item of `pieces`, and the fault that ended them, if one did.
fn read(version: Option<Version>, limits: Limits, pieces: &[&[u8]]) -> (Vec<Item>, Option<DecodeError>) {
    let mut decoder = Decoder::new(limits);
    if let Some(version) = version {
        decoder.set_version(version);
    }
    let mut items = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Some(error)),
            }
        }
    }
    (items, None)
}

/// The one frame that `text` is, with `^` for NUL.
fn frame(version: impl Into<Option<Version>>, text: &str) -> Frame {
    match &read(version.into(), LIMITS, &[text.replace('^', "\0").as_bytes()]) {
        (items, None) => match &items[..] {
            [Item::Frame(frame)] => frame.clone(),
            _ => panic!("{text:?} is {items:?}"),
        },
        (_, Some(error)) => panic!("{text:?}: {error}"),
    }
}

/// The fault in `text`, with `^` for NUL.
fn fault(version: impl Into<Option<Version>>, text: &str) -> DecodeError {
    let (items, fault) = read(version.into(), LIMITS, &[text.replace('^', "\0").as_bytes()]);
    fault.unwrap_or_else(|| panic!("{text:?} is {items:?}"))
}

fn header(version: impl Into<Option<Version>>, line: &str) -> (String, String) {
    let frame = frame(version, &format!("SEND\n{line}\n\n^"));
    let (name, value) = frame.headers.iter().next().unwrap();
    (name.to_string(), value.to_string())
}

fn written(frame: &Frame, version: Version) -> (String, usize) {
    let mut out = BytesMut::new();
    let omitted = encode(frame, version, &mut out);
    (String::from_utf8_lossy(&out).replace('\0', "^"), omitted)
}

mod frames {
    use super::*;

    #[test]
    fn command_headers_body() {
        let send = frame(Version::V12, "SEND\ndestination:/queue/a\ncontent-type:text/plain\n\nhello^");
        assert_eq!(send.command, Command::Send);
        assert_eq!(send.headers, Headers::from([("destination", "/queue/a"), ("content-type", "text/plain")]));
        assert_eq!(send.body, "hello");
    }

    #[test]
    fn a_frame_may_have_no_headers_and_no_body() {
        for version in Version::ALL {
            assert_eq!(frame(version, "DISCONNECT\n\n^"), Frame::new(Command::Disconnect));
        }
    }

    #[test]
    fn every_command_is_read() {
        for command in Command::ALL {
            assert_eq!(frame(Version::V11, &format!("{command}\n\n^")).command, command);
        }
    }

    #[test]
    fn a_command_in_small_letters_or_of_another_protocol_does_not_exist() {
        assert_eq!(fault(Version::V12, "send\n\n^"), DecodeError::UnknownCommand("send".into()));
        assert_eq!(fault(None, "GET / HTTP/1.1\r\n"), DecodeError::UnknownCommand("GET / HTTP/1.1\r".into()));
        assert_eq!(fault(None, &"x".repeat(1000)), DecodeError::UnknownCommand("x".repeat(32)));
        assert_eq!(fault(None, " CONNECT\n\n^"), DecodeError::UnknownCommand(" CONNECT".into()));
    }

    #[test]
    fn frames_follow_each_other_with_or_without_line_ends_between() {
        let (items, fault) = read(Some(Version::V12), LIMITS, &[b"BEGIN\n\n\0COMMIT\n\n\0\n\r\n\nABORT\n\n\0\n"]);
        let commands =
            [Command::Begin, Command::Commit, Command::Abort].map(|command| Item::Frame(Frame::new(command)));
        let [begin, commit, abort] = commands;
        let beat = || Item::Heartbeat;
        assert_eq!((items, fault), (vec![begin, commit, beat(), beat(), beat(), abort, beat()], None));
    }

    #[test]
    fn a_second_nul_is_no_frame() {
        assert_eq!(fault(Version::V12, "^"), DecodeError::NulInHead);
    }

    #[test]
    fn a_nul_before_the_blank_line_is_a_fault() {
        for text in ["SEND^", "SEND\na:b^", "SEND\na:^b\n\n^"] {
            assert_eq!(fault(Version::V12, text), DecodeError::NulInHead, "{text}");
        }
    }

    #[test]
    fn the_head_is_utf8() {
        let (_, fault) = read(Some(Version::V12), LIMITS, &[b"SEND\na:\xff\n\n\0"]);
        assert_eq!(fault, Some(DecodeError::NotUtf8));
        assert_eq!(header(Version::V12, "größe:✓"), ("größe".into(), "✓".into()));
    }
}

mod line_ends {
    use super::*;

    #[test]
    fn in_1_2_and_in_the_handshake_a_line_may_end_in_cr_lf() {
        assert_eq!(frame(Version::V12, "SEND\r\na:b\r\n\r\nx^"), frame(Version::V12, "SEND\na:b\n\nx^"));
        for version in Version::ALL.map(Some).into_iter().chain([None]) {
            let connect = frame(version, "CONNECT\r\naccept-version:1.2\r\n\r\n^");
            assert_eq!(connect.header("accept-version").unwrap(), "1.2");
        }
    }

    #[test]
    fn before_a_version_is_agreed_on_every_frame_reads_like_connect() {
        assert_eq!(frame(None, "SEND\r\na:\\t\r\n\r\n^"), frame(None, "SEND\na:\\t\n\n^"));
    }

    #[test]
    fn in_1_0_and_1_1_a_cr_belongs_to_the_value() {
        for version in [Version::V10, Version::V11] {
            assert_eq!(header(version, "a:b\r"), ("a".into(), "b\r".into()));
            assert_eq!(fault(version, "SEND\r\n\n^"), DecodeError::UnknownCommand("SEND\r".into()));
            assert_eq!(fault(version, "SEND\n\r\n\n^"), DecodeError::MissingColon("\r".into()));
        }
    }

    #[test]
    fn a_cr_alone_ends_no_line_and_is_in_no_header() {
        for text in ["SEND\na:b\rc\n\n^", "SEND\na:b\r\r\n\n^", "\rSEND\n\n^", "\r\r\n"] {
            assert_eq!(fault(Version::V12, text), DecodeError::BareCarriageReturn, "{text:?}");
        }
    }
}

mod headers {
    use super::*;

    #[test]
    fn escapes_of_1_2() {
        assert_eq!(header(Version::V12, r"\\\c:\r\n\c\\"), (r"\:".into(), "\r\n:\\".into()));
        assert_eq!(fault(Version::V12, "SEND\na:\\t\n\n^"), DecodeError::UndefinedEscape(r"a:\t".into()));
    }

    #[test]
    fn escapes_of_1_1() {
        assert_eq!(header(Version::V11, r"\\\c:\n\c\\"), (r"\:".into(), "\n:\\".into()));
        assert_eq!(fault(Version::V11, "SEND\na:\\r\n\n^"), DecodeError::UndefinedEscape(r"a:\r".into()));
    }

    #[test]
    fn a_backslash_at_the_end_is_a_fault() {
        for version in [Version::V11, Version::V12] {
            for line in [r"a:b\", r"a\:b", r"a:\\\"] {
                assert!(matches!(fault(version, &format!("SEND\n{line}\n\n^")), DecodeError::UndefinedEscape(_)));
            }
        }
    }

    #[test]
    fn in_1_0_and_in_the_handshake_nothing_is_escaped() {
        assert_eq!(header(Version::V10, r"a\c:\t\n\"), (r"a\c".into(), r"\t\n\".into()));
        for version in Version::ALL {
            for command in ["CONNECT", "STOMP", "CONNECTED"] {
                let handshake = frame(version, &format!("{command}\nversion:1.2\npasscode:\\t:\\\n\n^"));
                assert_eq!(handshake.header("passcode").unwrap(), r"\t:\");
            }
        }
    }

    #[test]
    fn a_further_colon_is_part_of_the_value() {
        for version in Version::ALL {
            assert_eq!(header(version, "a:b:c:"), ("a".into(), "b:c:".into()));
        }
    }

    #[test]
    fn one_space_after_the_colon_is_dropped_in_1_0_only() {
        assert_eq!(header(Version::V10, "a: b "), ("a".into(), "b ".into()));
        assert_eq!(header(Version::V10, "a:  b"), ("a".into(), " b".into()));
        for version in [Version::V11, Version::V12] {
            assert_eq!(header(version, " a : b "), (" a ".into(), " b ".into()));
        }
    }

    #[test]
    fn a_handshake_of_1_0_is_read_like_1_0() {
        for (text, login) in [
            ("CONNECT\nlogin: bob\n\n^", "bob"),
            ("CONNECT\nlogin: bob\naccept-version: 1.0\n\n^", "bob"),
            ("CONNECT\nlogin: bob\naccept-version:1.0,1.1\n\n^", " bob"),
            ("CONNECTED\nlogin: bob\n\n^", "bob"),
            ("CONNECTED\nlogin: bob\nversion:1.1\n\n^", " bob"),
        ] {
            assert_eq!(frame(None, text).header("login").unwrap(), login, "{text}");
        }
    }

    #[test]
    fn a_header_has_a_colon_and_a_name_and_may_have_no_value() {
        for version in Version::ALL {
            assert_eq!(header(version, "a:"), ("a".into(), String::new()));
            assert_eq!(fault(version, "SEND\nab\n\n^"), DecodeError::MissingColon("ab".into()));
            assert_eq!(fault(version, "SEND\n:b\n\n^"), DecodeError::EmptyName(":b".into()));
        }
    }

    #[test]
    fn repeated_headers_are_kept_and_the_first_counts() {
        let message = frame(Version::V12, "MESSAGE\nfoo:World\nfoo:Hello\n\n^");
        assert_eq!(message.header("foo").unwrap(), "World");
        assert_eq!(message.headers.len(), 2);
    }
}

mod bodies {
    use super::*;

    #[test]
    fn content_length_octets_are_read_whatever_they_are() {
        assert_eq!(frame(Version::V12, "SEND\ncontent-length:5\n\na^b\n^^").body, "a\0b\n\0");
        assert_eq!(frame(Version::V10, "SEND\ncontent-length: 1\n\n^^").body, "\0");
        assert_eq!(frame(Version::V12, "SEND\ncontent-length:0\n\n^").body, "");
        assert_eq!(frame(Version::V12, "SEND\ncontent-length:005\n\nhello^").body, "hello");
    }

    #[test]
    fn without_content_length_the_first_nul_ends_the_body() {
        let (items, _) = read(Some(Version::V12), LIMITS, &[b"SEND\n\na\n\nb\0\n"]);
        assert_eq!(items, [Item::Frame(Frame::new(Command::Send).with_body("a\n\nb")), Item::Heartbeat]);
    }

    #[test]
    fn a_nul_follows_the_octets_counted() {
        assert_eq!(fault(Version::V12, "SEND\ncontent-length:2\n\nabc^"), DecodeError::MissingNul(2));
    }

    #[test]
    fn content_length_is_decimal_digits() {
        for value in
            ["", "+5", "-1", "5x", "0x5", " 5", "5 ", "5.0", "٥", "18446744073709551616", "99999999999999999999"]
        {
            let text = format!("SEND\ncontent-length:{value}\n\nhello^");
            assert!(matches!(fault(Version::V12, &text), DecodeError::ContentLength(_)), "{value}");
        }
    }

    #[test]
    fn the_first_content_length_counts() {
        assert_eq!(frame(Version::V12, "SEND\ncontent-length:5\ncontent-length:x\n\nhello^").body, "hello");
    }

    #[test]
    fn three_commands_have_bodies() {
        for version in [Version::V11, Version::V12] {
            for command in Command::ALL {
                for text in [format!("{command}\n\nx^"), format!("{command}\ncontent-length:1\n\nx^")] {
                    match command {
                        Command::Send | Command::Message | Command::Error => {
                            assert_eq!(frame(version, &text).body, "x");
                        }
                        _ => assert_eq!(fault(version, &text), DecodeError::UnexpectedBody(command)),
                    }
                }
            }
        }
        assert_eq!(frame(Version::V12, "RECEIPT\ncontent-length:0\n\n^").body, "");
    }

    #[test]
    fn in_1_0_any_command_but_connect_may_have_one() {
        assert_eq!(frame(Version::V10, "SUBSCRIBE\ndestination:/a\n\nx^").body, "x");
        for version in [None, Some(Version::V10)] {
            assert_eq!(fault(version, "CONNECT\n\nx^"), DecodeError::UnexpectedBody(Command::Connect));
        }
    }
}

mod limits {
    use super::*;

    #[test]
    fn as_many_headers_as_the_limit_and_no_more() {
        let limits = Limits { headers: 2, ..LIMITS };
        assert_eq!(read(None, limits, &[b"SEND\na:\nb:\n\n\0"]).1, None);
        assert_eq!(read(None, limits, &[b"SEND\na:\nb:\nc:\n"]).1, Some(DecodeError::TooManyHeaders(2)));
    }

    #[test]
    fn header_lines_are_refused_before_they_end() {
        let limits = Limits { header_bytes: 5, ..LIMITS };
        assert_eq!(read(None, limits, &[b"SEND\na:b\n\n\0"]).1, None);
        assert_eq!(read(None, limits, &[b"SEND\na:bbbb"]).1, Some(DecodeError::HeadersTooLarge(5)));
    }

    #[test]
    fn a_body_is_refused_by_its_content_length_before_it_comes() {
        let error = DecodeError::BodyTooLarge { announced: Some(101), limit: 100 };
        assert_eq!(read(None, LIMITS, &[b"SEND\ncontent-length:101\n\n"]).1, Some(error));
        assert_eq!(read(None, LIMITS, &[b"SEND\ncontent-length:100\n\n"]).1, None);
    }

    #[test]
    fn a_body_without_content_length_is_refused_at_the_first_octet_too_many() {
        let error = DecodeError::BodyTooLarge { announced: None, limit: 100 };
        assert_eq!(read(None, LIMITS, &[b"SEND\n\n", &[b'x'; 100]]).1, None);
        assert_eq!(read(None, LIMITS, &[b"SEND\n\n", &[b'x'; 101]]).1, Some(error));
    }

    #[test]
    fn a_whole_frame_has_a_limit_before_connect_is_through() {
        let limits = |frame| Limits { frame: Some(frame), ..LIMITS };
        let connect = b"CONNECT\nlogin:bob\n\n\0";
        assert_eq!(read(None, limits(connect.len()), &[connect]).1, None);
        for limit in 0..connect.len() {
            let expected = Some(DecodeError::FrameTooLarge(limit));
            assert_eq!(read(None, limits(limit), &[connect]).1, expected, "{limit}");
        }
        let send = b"SEND\ncontent-length:50\n\n";
        assert_eq!(read(None, limits(send.len() + 50), &[send]).1, Some(DecodeError::FrameTooLarge(74)));
        assert_eq!(read(None, limits(send.len() + 51), &[send]).1, None);
    }

    #[test]
    fn of_two_limits_exceeded_the_one_that_is_reached_first_is_named() {
        let body = DecodeError::BodyTooLarge { announced: None, limit: 100 };
        let wide = Limits { frame: Some(150), ..LIMITS };
        assert_eq!(read(None, wide, &[b"SEND\n\n", &[b'x'; 200]]).1, Some(body));
        let narrow = Limits { frame: Some(50), ..LIMITS };
        assert_eq!(read(None, narrow, &[b"SEND\n\n", &[b'x'; 200]]).1, Some(DecodeError::FrameTooLarge(50)));
        assert_eq!(read(None, narrow, &[b"SEND\na:", &[b'x'; 300]]).1, Some(DecodeError::FrameTooLarge(50)));
        let wide = Limits { frame: Some(250), ..LIMITS };
        assert_eq!(read(None, wide, &[b"SEND\na:", &[b'x'; 300]]).1, Some(DecodeError::HeadersTooLarge(200)));
    }

    #[test]
    fn the_largest_numbers_are_no_special_case() {
        let limits =
            Limits { headers: usize::MAX, header_bytes: usize::MAX, body: usize::MAX, frame: Some(usize::MAX) };
        let text = format!("SEND\ncontent-length:{}\n\n", usize::MAX);
        assert_eq!(read(None, limits, &[text.as_bytes(), b"x", b"y"]).1, Some(DecodeError::FrameTooLarge(usize::MAX)));
        let limits = Limits { frame: None, ..limits };
        assert_eq!(read(None, limits, &[text.as_bytes(), b"x", b"y"]), (Vec::new(), None));
    }
}

mod decoding {
    use super::*;

    fn decoder() -> Decoder {
        let mut decoder = Decoder::new(LIMITS);
        decoder.set_version(Version::V12);
        decoder
    }

    fn next_frame(decoder: &mut Decoder) -> Frame {
        match decoder.next() {
            Ok(Some(Item::Frame(frame))) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_frame_is_a_slice_of_what_was_pushed() {
        let pushed = Bytes::from_static(b"\nSEND\na:b\n\nhello\0");
        let mut decoder = decoder();
        decoder.push(pushed.clone());
        assert_eq!(decoder.next(), Ok(Some(Item::Heartbeat)));
        let frame = next_frame(&mut decoder);
        let range = pushed.as_ptr_range();
        assert!(range.contains(&frame.body.as_ptr()));
        assert!(range.contains(&frame.header("a").unwrap().as_bytes().as_ptr()));
    }

    #[test]
    fn a_frame_in_pieces_comes_out_whole_and_what_follows_is_not_copied() {
        let mut decoder = decoder();
        decoder.push(Bytes::from_static(b"SEND\na:b\n\nhe"));
        assert_eq!(decoder.next(), Ok(None));
        let pushed = Bytes::from_static(b"llo\0SEND\n\nworld\0");
        decoder.push(pushed.clone());
        assert_eq!(next_frame(&mut decoder).body, "hello");
        assert!(pushed.as_ptr_range().contains(&next_frame(&mut decoder).body.as_ptr()));
        assert!(decoder.is_empty());
    }

    #[test]
    fn an_empty_decoder_keeps_no_buffer_alive() {
        let pushed = Bytes::from(b"SEND\n\nhello\0".to_vec());
        let mut decoder = decoder();
        decoder.push(pushed.clone());
        drop(next_frame(&mut decoder));
        assert!(pushed.is_unique());
        let pushed = Bytes::from(b"SEND\n\nhel".to_vec());
        decoder.push(pushed.clone());
        assert_eq!(decoder.next(), Ok(None));
        assert!(pushed.is_unique(), "what was gathered is a copy");
    }

    #[test]
    fn it_tells_how_much_it_holds() {
        let mut decoder = decoder();
        assert!(decoder.is_empty());
        for piece in [&b"SEND\na:b\n\n"[..], b"hel", b"lo"] {
            let before = decoder.buffered();
            decoder.push(Bytes::from_static(piece));
            assert_eq!(decoder.next(), Ok(None));
            assert_eq!(decoder.buffered(), before + piece.len());
        }
        decoder.push(Bytes::from_static(b"\0"));
        next_frame(&mut decoder);
        assert!(decoder.is_empty());
    }

    #[test]
    fn pieces_pushed_before_the_first_is_read_are_read_in_order() {
        let mut decoder = decoder();
        for piece in [&b"SEND\n\na\0SE"[..], b"ND\n\nb\0", b"SEND\n\nc\0"] {
            decoder.push(Bytes::from_static(piece));
        }
        for body in ["a", "b", "c"] {
            assert_eq!(next_frame(&mut decoder).body, body);
        }
    }

    /// Each byte is searched once: with a search from the start for each, this test would not end in sight.
    #[test]
    fn a_long_frame_may_come_byte_by_byte() {
        let length = 1 << 18;
        let body = "x".repeat(length);
        for head in [format!("SEND\ncontent-length:{length}\n\n"), "SEND\n\n".to_owned()] {
            let mut decoder = Decoder::new(Limits { body: length, ..LIMITS });
            for byte in format!("{head}{body}").into_bytes() {
                decoder.push(Bytes::from(vec![byte]));
                assert_eq!(decoder.next(), Ok(None));
            }
            decoder.push(Bytes::from_static(b"\0"));
            assert_eq!(next_frame(&mut decoder).body, body);
        }
    }

    #[test]
    fn after_a_fault_there_is_nothing_but_that_fault() {
        let mut decoder = decoder();
        decoder.push(Bytes::from_static(b"nonsense\n"));
        let fault = decoder.next().unwrap_err();
        decoder.push(Bytes::from_static(b"SEND\n\n\0"));
        assert_eq!(decoder.next(), Err(fault));
        assert!(decoder.is_empty());
    }

    #[test]
    fn the_version_counts_from_the_frame_after_connect() {
        let mut decoder = Decoder::new(LIMITS);
        decoder.push(Bytes::from_static(b"CONNECT\r\naccept-version:1.1\r\n\r\n\0SEND\na:\\c\r\n\n\0"));
        assert_eq!(next_frame(&mut decoder).command, Command::Connect);
        decoder.set_version(Version::V11);
        assert_eq!(next_frame(&mut decoder).header("a").unwrap(), ":\r");
    }

    #[test]
    fn a_fault_becomes_a_refusal() {
        assert_eq!(Refusal::from(fault(None, "x\n")).code, "unknown-command");
    }
}

mod encoding {
    use super::*;

    #[test]
    fn a_frame_is_written_with_its_content_length() {
        let error = Frame::new(Command::Error).with("message", "no").with("content-length", "99").with_body("why");
        assert_eq!(written(&error, Version::V12), ("ERROR\nmessage:no\ncontent-length:3\n\nwhy^".into(), 0));
        let receipt = Frame::new(Command::Receipt).with("receipt-id", "7");
        assert_eq!(written(&receipt, Version::V12), ("RECEIPT\nreceipt-id:7\n\n^".into(), 0));
    }

    #[test]
    fn escapes_follow_the_version() {
        let send = Frame::new(Command::Send).with("a:b", "c:\\\nd");
        assert_eq!(written(&send, Version::V12).0, "SEND\na\\cb:c\\c\\\\\\nd\ncontent-length:0\n\n^");
        assert_eq!(written(&send, Version::V11), written(&send, Version::V12));
        let send = Frame::new(Command::Send).with("a", "\r");
        assert_eq!(written(&send, Version::V12).0, "SEND\na:\\r\ncontent-length:0\n\n^");
    }

    #[test]
    fn the_handshake_is_not_escaped() {
        let connected = Frame::new(Command::Connected).with("version", "1.2").with("server", "a:\\b").with("x", "\n");
        assert_eq!(written(&connected, Version::V12), ("CONNECTED\nversion:1.2\nserver:a:\\b\n\n^".into(), 1));
    }

    #[test]
    fn what_a_version_has_no_words_for_is_left_out() {
        let headers =
            [("", "x"), ("nul", "\0"), ("\0", "nul"), ("cr", "\r"), ("lf", "a\nb:c"), ("l\nf", ""), ("a:b", "c")];
        let send = Frame { headers: Headers::from(headers), ..Frame::new(Command::Send) };
        assert_eq!(written(&send, Version::V10), ("SEND\ncontent-length:0\n\n^".into(), 7));
        assert_eq!(written(&send, Version::V11).1, 4);
        assert_eq!(written(&send, Version::V12).1, 3);
    }

    #[test]
    fn in_1_0_a_leading_space_is_doubled_since_the_reader_drops_one() {
        let send = Frame::new(Command::Send).with("a", " b").with("c", "d");
        assert_eq!(written(&send, Version::V10).0, "SEND\na:  b\nc:d\ncontent-length:0\n\n^");
        assert_eq!(written(&send, Version::V11).0, "SEND\na: b\nc:d\ncontent-length:0\n\n^");
    }

    fn message(headers: &Headers) -> MessageFrame<'_> {
        MessageFrame {
            subscription: Some("sub-0"),
            message_id: "m-1",
            ack: Some("a-1"),
            destination: "/topic/a",
            redelivered: false,
            gap: false,
            headers,
            body: b"hello",
        }
    }

    fn message_written(message: &MessageFrame<'_>, version: Version) -> (String, usize) {
        let mut out = BytesMut::new();
        let omitted = message.encode(version, &mut out);
        (String::from_utf8_lossy(&out).replace('\0', "^"), omitted)
    }

    #[test]
    fn message_says_what_is_its_own_first() {
        let headers = Headers::from([("content-type", "text/plain")]);
        let expected = "MESSAGE\nsubscription:sub-0\nmessage-id:m-1\nack:a-1\ndestination:/topic/a\ncontent-length:5\n\
                        content-type:text/plain\n\nhello^";
        assert_eq!(message_written(&message(&headers), Version::V12), (expected.into(), 0));
        let plain = MessageFrame { subscription: None, ack: None, redelivered: true, gap: true, ..message(&headers) };
        let expected = "MESSAGE\nmessage-id:m-1\ndestination:/topic/a\nredelivered:true\ngap:true\ncontent-length:5\n\
                        content-type:text/plain\n\nhello^";
        assert_eq!(message_written(&plain, Version::V12), (expected.into(), 0));
    }

    #[test]
    fn a_publisher_cannot_say_what_is_messages_own() {
        let own = ["subscription", "message-id", "ack", "redelivered", "destination", "content-length", "gap"];
        let headers = own.into_iter().map(|name| (name, "forged")).collect();
        let (text, omitted) = message_written(&message(&headers), Version::V12);
        assert!(!text.contains("forged"), "{text}");
        assert_eq!(omitted, 0);
    }

    #[test]
    fn message_is_written_like_any_frame() {
        let headers = Headers::from([("a:b", "c\nd"), ("e", " f"), ("g", "\r"), ("h", "\0")]);
        for version in Version::ALL {
            let same = Frame::new(Command::Message)
                .with("subscription", "sub-0")
                .with("message-id", "m-1")
                .with("ack", "a-1")
                .with("destination", "/topic/a");
            let (text, omitted) = message_written(&message(&headers), version);
            let mut all = same.clone();
            headers.iter().for_each(|(name, value)| all.headers.push(name.clone(), value.clone()));
            assert_eq!(omitted, written(&all, version).1);
            let read = frame(version, &text.replace("h:^\n", ""));
            for (name, value) in read.headers.iter().filter(|(name, _)| &***name != "content-length") {
                assert_eq!(all.header(name), Some(value));
            }
        }
    }

    #[test]
    fn a_long_body_has_a_long_number() {
        let (text, _) = written(&Frame::new(Command::Send).with_body(vec![b'x'; 1_234_567]), Version::V12);
        assert!(text.starts_with("SEND\ncontent-length:1234567\n\n"));
    }
}

#[test]
fn a_heartbeat_can_be_taken_alone() {
    let mut decoder = Decoder::new(LIMITS);
    assert_eq!(decoder.take_heartbeat(), None);
    decoder.push(Bytes::from_static(b"\n\r\nDISCONNECT\n\n\0\n\r"));
    assert_eq!([decoder.take_heartbeat(), decoder.take_heartbeat()], [Some(1), Some(2)]);
    assert_eq!(decoder.take_heartbeat(), None, "a frame is what comes next");
    assert!(matches!(decoder.next(), Ok(Some(Item::Frame(_)))));
    assert_eq!(decoder.take_heartbeat(), Some(1));
    assert_eq!(decoder.take_heartbeat(), None, "half a line end");
    assert!(!decoder.is_empty());
    assert_eq!(decoder.next(), Ok(None));
    decoder.push(Bytes::from_static(b"\n"));
    assert_eq!(decoder.next(), Ok(Some(Item::Heartbeat)));
}
