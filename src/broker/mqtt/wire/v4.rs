//! MQTT 3.1.1: no properties, no reasons, and no word about what the broker can do.

use rumqttc_v4::mqttbytes::Error as PacketError;
use rumqttc_v4::mqttbytes::v4::{
    ConnectReturnCode, Packet as Incoming, PubAck, Publish, SubscribeFilter, SubscribeReasonCode,
};
use rumqttc_v4::{
    AckMode, AsyncClient, Broker, ConnectionError, ManualAck, MqttOptions, NetworkOptions, PublishOptions, StateError,
    TlsConfiguration, Transport,
};

use super::{
    Answer, Arrival, BATCH, CLIENT_ID_HINT, Endpoint, Event, Events, Fault, Filter, Granted, LOGIN_HINT, Library,
    Options, Packet, Place, Published, Subscribed, WINDOW, at_once, broken, not_made, quality,
};
use crate::message::Text;

/// The most that can be asked of a limit for packets: the broker does not say its own.
const UNLIMITED: usize = 268_435_460;

pub(super) fn open(endpoint: &Endpoint, options: &Options) -> Result<(Library, Events), String> {
    let id = options.client_id.clone();
    let tls = endpoint.tls.clone().map(TlsConfiguration::Rustls);
    let mut settings = match (endpoint.place(), tls) {
        (Place::Host(host, port), None) => MqttOptions::new(id, Broker::tcp(host, port)),
        (Place::Host(host, port), Some(tls)) => {
            let mut settings = MqttOptions::new(id, Broker::tcp(host, port));
            settings.set_transport(Transport::tls_with_config(tls));
            settings
        }
        (Place::Url(url), None) => MqttOptions::new(id, Broker::websocket(url).map_err(|why| why.to_string())?),
        (Place::Url(url), Some(tls)) => {
            MqttOptions::websocket_with_tls_config(id, url, tls).map_err(|why| why.to_string())?
        }
    };
    if let Some((user, passcode)) = &endpoint.address.login {
        settings.set_credentials(user.clone(), passcode.clone());
    }
    let max_packet = usize::try_from(endpoint.max_packet).unwrap_or(UNLIMITED);
    settings
        .set_keep_alive(endpoint.keep_alive)
        .set_max_packet_size(max_packet, UNLIMITED)
        .set_max_request_batch(BATCH)
        .set_inflight(WINDOW)
        .set_clean_session(options.lasts.is_none());
    if options.is_manual {
        settings.set_ack_mode(AckMode::Manual);
    }
    let opened = AsyncClient::builder(settings).unbounded().try_build();
    let (client, mut events) = opened.map_err(|why| why.to_string())?;
    let mut network = NetworkOptions::new();
    // Small packets go at once, not when the answer to the last one is there.
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(endpoint.connect_timeout.as_secs().max(1));
    events.set_network_options(network);
    Ok((Library::V4(client), Events::V4(Box::new(events))))
}

pub(super) fn event(event: rumqttc_v4::Event) -> Event {
    match event {
        rumqttc_v4::Event::Incoming(Incoming::ConnAck(connack)) => Event::Up(Granted {
            receive_maximum: WINDOW,
            max_qos: 2,
            retain: true,
            wildcards: true,
            shared: None,
            identifiers: false,
            resumed: connack.session_present,
            keeps_sessions: true,
            max_packet: None,
        }),
        rumqttc_v4::Event::Incoming(Incoming::Publish(publish)) => {
            arrival(publish).map_or(Event::Other, Event::Arrived)
        }
        _ => Event::Other,
    }
}

fn arrival(publish: Publish) -> Option<Arrival> {
    Some(Arrival {
        topic: Text::try_from(publish.topic).ok()?,
        qos: publish.qos as u8,
        packet: publish.pkid,
        dup: publish.dup,
        retain: publish.retain,
        payload: publish.payload,
        ..Arrival::default()
    })
}

pub(super) fn fault(error: &ConnectionError) -> Fault {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            let hint = match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => LOGIN_HINT,
                ConnectReturnCode::BadClientId => CLIENT_ID_HINT,
                ConnectReturnCode::RefusedProtocolVersion => "; try broker.mqtt.version = \"5\"",
                _ => "",
            };
            Fault::Refused(format!("{code:?}{hint}"))
        }
        ConnectionError::Io(io) => not_made(io),
        ConnectionError::MqttState(state) => match state {
            StateError::ConnectionAborted => Fault::Closed(state.to_string()),
            StateError::Io(io) | StateError::Deserialization(PacketError::Io(io)) => broken(io),
            StateError::Deserialization(_) | StateError::ProtocolViolation(_) => Fault::Unreadable(state.to_string()),
            other => Fault::Lost(other.to_string()),
        },
        other => Fault::Lost(other.to_string()),
    }
}

pub(super) fn publish(client: &AsyncClient, packet: Packet) -> Answer<Published> {
    let Packet { topic, qos, retain, payload, .. } = packet;
    let options = PublishOptions::new(quality(qos)).retain(retain);
    match client.try_publish_tracked(topic, payload, options) {
        // That it was taken is all that 3.1.1 ever says.
        Ok(notice) => {
            Box::pin(async move { notice.wait_async().await.map_or(Published::Lost, |_| Published::Taken(true)) })
        }
        Err(rumqttc_v4::ClientError::InvalidRequest(_)) => at_once(Published::Refused("bad topic".to_owned())),
        Err(_) => at_once(Published::Lost),
    }
}

pub(super) fn subscribe(client: &AsyncClient, filter: &Filter) -> Answer<Subscribed> {
    let wanted = SubscribeFilter::new(filter.path.clone(), quality(filter.qos));
    let is_shared = filter.path.starts_with("$share/");
    match client.try_subscribe_many_tracked([wanted]) {
        Ok(notice) => Box::pin(async move {
            match notice.wait_async().await {
                Ok(suback) => match suback.return_codes.first() {
                    Some(SubscribeReasonCode::Success(qos)) => Subscribed::Granted(*qos as u8),
                    Some(SubscribeReasonCode::Failure) => refused(is_shared),
                    None => Subscribed::Lost,
                },
                Err(rumqttc_v4::SubscribeNoticeError::V4SubAckFailure(_)) => refused(is_shared),
                Err(_) => Subscribed::Lost,
            }
        }),
        Err(rumqttc_v4::ClientError::InvalidRequest(_)) => at_once(Subscribed::Refused("bad filter".to_owned())),
        Err(_) => at_once(Subscribed::Lost),
    }
}

pub(super) fn unsubscribe(client: &AsyncClient, path: String) -> Answer<bool> {
    match client.try_unsubscribe_tracked(path) {
        Ok(notice) => Box::pin(async move { notice.wait_async().await.is_ok() }),
        Err(_) => at_once(false),
    }
}

fn refused(is_shared: bool) -> Subscribed {
    let hint =
        if is_shared { "; perhaps it has no shared subscriptions (broker.mqtt.shared_subscriptions)" } else { "" };
    Subscribed::Refused(format!("MQTT 3.1.1 does not say why{hint}"))
}

pub(super) fn acknowledgement(packet: u16) -> ManualAck {
    ManualAck::PubAck(PubAck::new(packet))
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;

    fn fault_of(error: StateError) -> Fault {
        fault(&ConnectionError::MqttState(error))
    }

    #[test]
    fn a_fault_says_whose_doing_it_was() {
        for kind in [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe, ErrorKind::Other] {
            assert!(matches!(fault_of(StateError::Io(kind.into())), Fault::Closed(_)), "{kind:?}");
            let read = PacketError::Io(io::Error::from(kind));
            assert!(matches!(fault_of(StateError::Deserialization(read)), Fault::Closed(_)), "{kind:?}");
        }
        assert!(matches!(fault_of(StateError::ConnectionAborted), Fault::Closed(_)));
        for error in [StateError::AwaitPingResp, StateError::Io(ErrorKind::TimedOut.into())] {
            assert!(matches!(fault_of(error), Fault::Lost(_)));
        }
        for error in [PacketError::PayloadSizeLimitExceeded(2), PacketError::MalformedPacket] {
            assert!(matches!(fault_of(StateError::Deserialization(error)), Fault::Unreadable(_)));
        }
    }
}
