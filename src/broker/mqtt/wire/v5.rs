//! MQTT 5.

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Packet as Incoming, PubAck, PubAckReason, PubCompReason,
    PubRecReason, Publish, PublishProperties, RetainForwardRule, SubscribeFilter, SubscribeProperties,
    SubscribeReasonCode,
};
use rumqttc::{
    AckMode, AsyncClient, Broker, ConnectionError, ManualAck, MqttOptions, NetworkOptions, PublishOptions,
    PublishResult, StateError, TlsConfiguration, Transport, UnsubscribeNoticeError,
};

use super::blank::Blank;
use super::{
    Answer, Arrival, BATCH, CLIENT_ID_HINT, Endpoint, Event, Events, Fault, Filter, Granted, LOGIN_HINT, Library,
    Options, Packet, Place, Properties, Published, Subscribed, WINDOW, at_once, broken, not_made, quality,
};
use crate::message::Text;

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
    let mut network = NetworkOptions::new();
    // Small packets go at once, not when the answer to the last one is there.
    network.set_tcp_nodelay(true);
    settings
        .set_keep_alive(endpoint.keep_alive)
        .set_connect_timeout(endpoint.connect_timeout)
        .set_max_packet_size(Some(endpoint.max_packet))
        .set_max_request_batch(BATCH)
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_network_options(network)
        .set_clean_start(options.lasts.is_none());
    if options.lasts.is_some() {
        let store = Blank { lasts: options.lasts, is_manual: options.is_manual };
        settings.set_session_expiry_interval(options.lasts).set_session_store(store);
    }
    if options.is_manual {
        settings.set_ack_mode(AckMode::Manual);
    }
    if let Some(most) = options.receive_maximum {
        settings.set_receive_maximum(Some(most));
    }
    let opened = AsyncClient::builder(settings).unbounded().try_build();
    let (client, events) = opened.map_err(|why| why.to_string())?;
    Ok((Library::V5(client), Events::V5(Box::new(events))))
}

pub(super) fn event(event: rumqttc::Event) -> Event {
    match event {
        rumqttc::Event::Incoming(Incoming::ConnAck(connack)) => Event::Up(granted(&connack)),
        rumqttc::Event::Incoming(Incoming::Publish(publish)) => arrival(publish).map_or(Event::Other, Event::Arrived),
        _ => Event::Other,
    }
}

fn granted(connack: &ConnAck) -> Granted {
    let properties = connack.properties.as_ref();
    let has = |flag: Option<u8>| flag != Some(0);
    Granted {
        receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX).min(WINDOW),
        max_qos: properties.and_then(|properties| properties.max_qos).unwrap_or(2),
        retain: has(properties.and_then(|properties| properties.retain_available)),
        wildcards: has(properties.and_then(|properties| properties.wildcard_subscription_available)),
        shared: Some(has(properties.and_then(|properties| properties.shared_subscription_available))),
        identifiers: has(properties.and_then(|properties| properties.subscription_identifiers_available)),
        resumed: connack.session_present,
        keeps_sessions: properties.and_then(|properties| properties.session_expiry_interval) != Some(0),
        max_packet: properties.and_then(|properties| properties.max_packet_size),
    }
}

fn arrival(publish: Publish) -> Option<Arrival> {
    let mut arrival = Arrival {
        topic: Text::try_from(publish.topic).ok()?,
        qos: publish.qos as u8,
        packet: publish.pkid,
        dup: publish.dup,
        retain: publish.retain,
        payload: publish.payload,
        ..Arrival::default()
    };
    if let Some(properties) = publish.properties {
        arrival.subscriptions = properties.subscription_identifiers;
        arrival.properties = Properties {
            content_type: properties.content_type,
            correlation_data: properties.correlation_data,
            response_topic: properties.response_topic,
            expiry: properties.message_expiry_interval,
            is_text: properties.payload_format_indicator == Some(1),
            user: properties.user_properties,
        };
    }
    Some(arrival)
}

pub(super) fn fault(error: &ConnectionError) -> Fault {
    match error {
        ConnectionError::ConnectionRefused(code) => Fault::Refused(refusal(*code)),
        ConnectionError::Io(io) => not_made(io),
        ConnectionError::MqttState(state) => match state {
            StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
                Fault::TakenOver
            }
            StateError::ServerDisconnect { reason_code, reason_string } => {
                let why = reason_string.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                Fault::Lost(format!("the broker has closed it: {reason_code:?}{why}"))
            }
            StateError::ConnectionAborted => Fault::Closed(state.to_string()),
            StateError::Io(io) | StateError::Deserialization(PacketError::Io(io)) => broken(io),
            StateError::Deserialization(_)
            | StateError::ProtocolViolation(_)
            | StateError::IncomingPacketTooLarge { .. } => Fault::Unreadable(state.to_string()),
            other => Fault::Lost(other.to_string()),
        },
        other => Fault::Lost(other.to_string()),
    }
}

fn refusal(code: ConnectReturnCode) -> String {
    let hint = match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => LOGIN_HINT,
        ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => CLIENT_ID_HINT,
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            "; try broker.mqtt.version = \"3.1.1\""
        }
        _ => "",
    };
    format!("{code:?}{hint}")
}

pub(super) fn publish(client: &AsyncClient, packet: Packet) -> Answer<Published> {
    let Packet { topic, qos, retain, properties, payload } = packet;
    let properties = PublishProperties {
        payload_format_indicator: properties.is_text.then_some(1),
        message_expiry_interval: properties.expiry,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user,
        content_type: properties.content_type,
        ..PublishProperties::default()
    };
    let options = PublishOptions::new(quality(qos)).retain(retain).properties(properties);
    match client.try_publish_tracked(topic, payload, options) {
        Ok(notice) => {
            Box::pin(async move { notice.wait_async().await.map_or(Published::Lost, |result| answer(&result)) })
        }
        Err(rumqttc::ClientError::InvalidRequest(_)) => at_once(Published::Refused("TopicNameInvalid".to_owned())),
        Err(_) => at_once(Published::Lost),
    }
}

fn answer(result: &PublishResult) -> Published {
    match result {
        PublishResult::Qos0Flushed => Published::Taken(true),
        PublishResult::Qos1(ack) => match ack.reason {
            PubAckReason::Success => Published::Taken(true),
            PubAckReason::NoMatchingSubscribers => Published::Taken(false),
            other => Published::Refused(format!("{other:?}")),
        },
        PublishResult::Qos2Completed(done) if done.reason == PubCompReason::Success => Published::Taken(true),
        PublishResult::Qos2Completed(done) => Published::Refused(format!("{:?}", done.reason)),
        PublishResult::Qos2PubRecRejected(ack) => match ack.reason {
            PubRecReason::Success => Published::Taken(true),
            PubRecReason::NoMatchingSubscribers => Published::Taken(false),
            other => Published::Refused(format!("{other:?}")),
        },
    }
}

pub(super) fn subscribe(client: &AsyncClient, filter: &Filter) -> Answer<Subscribed> {
    let mut wanted = SubscribeFilter::new(filter.path.clone(), quality(filter.qos));
    wanted.retain_forward_rule =
        if filter.retained { RetainForwardRule::OnEverySubscribe } else { RetainForwardRule::Never };
    let properties = SubscribeProperties { id: filter.identifier, user_properties: Vec::new() };
    match client.try_subscribe_many_with_properties_tracked([wanted], properties) {
        Ok(notice) => Box::pin(async move {
            match notice.wait_async().await {
                Ok(suback) => suback.return_codes.first().copied().map_or(Subscribed::Lost, granted_subscription),
                Err(_) => Subscribed::Lost,
            }
        }),
        Err(rumqttc::ClientError::InvalidRequest(_)) => at_once(Subscribed::Refused("TopicFilterInvalid".to_owned())),
        Err(_) => at_once(Subscribed::Lost),
    }
}

pub(super) fn unsubscribe(client: &AsyncClient, path: String) -> Answer<bool> {
    match client.try_unsubscribe_tracked(path) {
        Ok(notice) => Box::pin(async move {
            let answered = notice.wait_async().await;
            // That there was nothing to end is an answer, too.
            answered.is_ok() || matches!(answered, Err(UnsubscribeNoticeError::V5UnsubAckFailure(_)))
        }),
        Err(_) => at_once(false),
    }
}

fn granted_subscription(code: SubscribeReasonCode) -> Subscribed {
    match code {
        SubscribeReasonCode::Success(qos) => Subscribed::Granted(qos as u8),
        SubscribeReasonCode::NotAuthorized => Subscribed::Forbidden,
        other => Subscribed::Refused(format!("{other:?}")),
    }
}

pub(super) fn acknowledgement(packet: u16) -> ManualAck {
    ManualAck::PubAck(PubAck::new(packet, None))
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
        let said = |reason_code| fault_of(StateError::ServerDisconnect { reason_code, reason_string: None });
        assert_eq!(said(DisconnectReasonCode::SessionTakenOver), Fault::TakenOver);
        for reason in [DisconnectReasonCode::AdministrativeAction, DisconnectReasonCode::QuotaExceeded] {
            assert!(matches!(said(reason), Fault::Lost(_)), "{reason:?}");
        }
        // As TCP, TLS and WebSocket say that the other side is gone.
        let ends = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe, ErrorKind::Other];
        for kind in ends {
            assert!(matches!(fault_of(StateError::Io(kind.into())), Fault::Closed(_)), "{kind:?}");
            let read = PacketError::Io(io::Error::from(kind));
            assert!(matches!(fault_of(StateError::Deserialization(read)), Fault::Closed(_)), "{kind:?}");
        }
        assert!(matches!(fault_of(StateError::ConnectionAborted), Fault::Closed(_)));
        // Ours, or the network's.
        for error in [StateError::AwaitPingResp, StateError::Io(ErrorKind::TimedOut.into())] {
            assert!(matches!(fault_of(error), Fault::Lost(_)));
        }
        let large = PacketError::PayloadSizeLimitExceeded { pkt_size: 2, max: 1 };
        for error in [StateError::Deserialization(large), StateError::Deserialization(PacketError::MalformedPacket)] {
            assert!(matches!(fault_of(error), Fault::Unreadable(_)));
        }
    }
}
