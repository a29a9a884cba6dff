#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stompgate_fuzz::handshake(data));
