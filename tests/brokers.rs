//! One suite that judges every backend through the traits of `stompgate::broker`.
//!
//! A case is an `async fn(Arc<dyn Broker>)` that reads like a conversation. A new case is one function and one word in
//! the list below; a new backend is one factory in `backends` and one line `judge!(name);`. What a backend cannot do it
//! says in its capabilities, and the suite then checks that it refuses by name.

#[cfg(feature = "amqp")]
#[path = "support/amqp_bytes.rs"]
mod amqp_bytes;
#[cfg(feature = "amqp")]
#[path = "amqp/exchanges.rs"]
mod amqp_exchanges;
#[cfg(feature = "amqp")]
#[path = "amqp/leaderless.rs"]
mod amqp_leaderless;
#[cfg(feature = "amqp")]
#[path = "amqp/outage.rs"]
mod amqp_outage;
#[cfg(feature = "amqp")]
#[path = "amqp/poison.rs"]
mod amqp_poison;
#[cfg(feature = "amqp")]
#[path = "amqp/publishing.rs"]
mod amqp_publishing;
#[cfg(feature = "amqp")]
#[path = "amqp/queues.rs"]
mod amqp_queues;
#[cfg(feature = "amqp")]
#[path = "amqp/scale.rs"]
mod amqp_scale;
#[cfg(feature = "amqp")]
#[path = "amqp/topics.rs"]
mod amqp_topics;
#[cfg(feature = "amqp")]
#[path = "amqp/wire.rs"]
mod amqp_wire;
#[path = "brokers/harness.rs"]
mod harness;
#[cfg(feature = "mqtt")]
#[path = "support/mosquitto.rs"]
mod mosquitto;
#[cfg(feature = "mqtt")]
#[path = "mqtt/durable.rs"]
mod mqtt_durable;
#[cfg(feature = "mqtt")]
#[path = "mqtt/limits.rs"]
mod mqtt_limits;
#[cfg(feature = "mqtt")]
#[path = "mqtt/outage.rs"]
mod mqtt_outage;
#[cfg(feature = "mqtt")]
#[path = "mqtt/queues.rs"]
mod mqtt_queues;
#[cfg(feature = "mqtt")]
#[allow(dead_code, reason = "the faults use the rest of it")]
#[path = "support/proxy.rs"]
mod proxy;
#[cfg(feature = "amqp")]
#[path = "support/rabbitmq.rs"]
mod rabbitmq;

#[path = "brokers/capabilities.rs"]
mod capabilities;
#[path = "brokers/competition.rs"]
mod competition;
#[path = "brokers/durable.rs"]
mod durable;
#[path = "brokers/memory_limits.rs"]
mod memory_limits;
#[path = "brokers/queues.rs"]
mod queues;
#[path = "brokers/replies.rs"]
mod replies;
#[path = "brokers/retained.rs"]
mod retained;
#[path = "brokers/topics.rs"]
mod topics;
#[path = "brokers/transactions.rs"]
mod transactions;

/// One factory for each backend.
mod backends {
    use std::sync::Arc;
    #[cfg(feature = "mqtt")]
    use std::time::Duration;

    #[cfg(any(feature = "amqp", feature = "mqtt"))]
    use stompgate::broker::LinkState;
    #[cfg(feature = "amqp")]
    use stompgate::broker::amqp;
    #[cfg(feature = "mqtt")]
    use stompgate::broker::mqtt;
    use stompgate::broker::{Broker, memory};
    #[cfg(feature = "mqtt")]
    use stompgate::broker::{BrokerError, Identity, Link};
    #[cfg(feature = "mqtt")]
    use tokio::sync::watch;

    pub(crate) async fn memory() -> Arc<dyn Broker> {
        memory::connect(&memory::Settings::default()).unwrap()
    }

    #[cfg(feature = "amqp")]
    pub(crate) async fn amqp() -> Arc<dyn Broker> {
        amqp_with(amqp::Settings { queue_arguments: Some(true), ..amqp::Settings::default() }).await
    }

    #[cfg(feature = "amqp")]
    pub(crate) async fn amqp_with(settings: amqp::Settings) -> Arc<dyn Broker> {
        let uri = vec![amqp::Uri(crate::rabbitmq::shared().await.uri())];
        let broker = amqp::connect(&amqp::Settings { uri, ..settings }).unwrap();
        broker.state().wait_for(|state| *state == LinkState::Up).await.unwrap();
        broker
    }

    #[cfg(feature = "mqtt")]
    pub(crate) async fn mqtt5() -> Arc<dyn Broker> {
        // So that each message is answered, and what became of it is known.
        // A queue is there for as long as a case takes.
        let linger = Duration::from_mins(1);
        mqtt_with(mqtt::Settings { qos: 1, linger, ..mqtt::Settings::default() }).await
    }

    #[cfg(feature = "mqtt")]
    pub(crate) async fn mqtt311() -> Arc<dyn Broker> {
        let settings = mqtt::Settings {
            version: mqtt::Version::V311,
            qos: 1,
            linger: Duration::from_mins(1),
            envelope: true,
            shared_subscriptions: true,
            ..mqtt::Settings::default()
        };
        mqtt_with(settings).await
    }

    /// In front of a Mosquitto of its own: there, a case that reads everything would be there for all messages.
    #[cfg(feature = "mqtt")]
    pub(crate) async fn mqtt_with(settings: mqtt::Settings) -> Arc<dyn Broker> {
        let server = crate::mosquitto::Mosquitto::start("").await;
        let uri = mqtt::Uri(server.uri());
        let broker = mqtt::connect(&mqtt::Settings { uri, ..settings }).unwrap();
        broker.state().wait_for(|state| *state == LinkState::Up).await.unwrap();
        Arc::new(Owned { broker, _server: server })
    }

    /// A broker and what it is in front of.
    #[cfg(feature = "mqtt")]
    struct Owned {
        broker: Arc<dyn Broker>,
        _server: crate::mosquitto::Mosquitto,
    }

    #[cfg(feature = "mqtt")]
    #[async_trait::async_trait]
    impl Broker for Owned {
        async fn link(&self, identity: &Identity) -> Result<Arc<dyn Link>, BrokerError> {
            self.broker.link(identity).await
        }

        fn state(&self) -> watch::Receiver<LinkState> {
            self.broker.state()
        }

        async fn close(&self) {
            self.broker.close().await;
        }
    }
}

macro_rules! judge {
    ($backend:ident) => {
        mod $backend {
            judge! { $backend
                topics {
                    every_subscriber_gets_a_copy,
                    a_pattern_gets_what_it_matches,
                    overlapping_patterns_each_get_one_copy,
                    order_is_the_publishers,
                    nobody_there_is_unrouted,
                    a_dropped_guard_hears_nothing_more,
                    leading_wildcards_are_blind_to_system_names,
                    users_have_names_of_their_own,
                    acknowledged_topics_have_queues_of_their_own,
                    headers_and_body_arrive_as_sent,
                    a_closed_broker_says_so,
                }
                queues {
                    a_queue_keeps_messages_until_somebody_reads,
                    one_message_goes_to_one_reader,
                    prefetch_bounds_what_is_unsettled,
                    a_requeued_message_comes_back_first,
                    what_a_dropped_reader_held_comes_back_in_order,
                    a_rejected_message_is_gone,
                    settling_twice_is_settled_once,
                    a_cancelled_reader_can_still_settle,
                    what_was_settled_before_the_drop_stays_settled,
                    two_readers_take_turns,
                    a_dropped_reader_hands_its_call_on,
                }
                competition {
                    every_message_is_settled_by_exactly_one_reader,
                    a_queue_that_comes_and_goes_loses_nothing,
                    publishers_keep_their_order_in_a_crowd,
                }
                durable {
                    a_durable_subscription_outlives_its_reader,
                    a_durable_subscription_has_one_reader,
                    another_pattern_under_the_same_name_keeps_what_waits,
                    a_deleted_one_begins_anew,
                    an_unknown_one_cannot_be_deleted,
                }
                replies {
                    an_answer_finds_the_one_who_asked,
                    a_reply_address_goes_with_its_owner,
                    reply_addresses_cannot_be_guessed,
                }
                retained {
                    a_late_reader_gets_the_last_value,
                    an_empty_body_forgets,
                    a_replay_is_for_one_reader,
                    a_dedicated_reader_gets_it_in_its_queue,
                    a_reader_gets_each_value_once_while_it_changes,
                }
                transactions {
                    a_commit_publishes_and_settles,
                    a_lost_delivery_publishes_nothing,
                    a_bad_message_publishes_nothing,
                }
                capabilities {
                    exchanges_are_refused_by_name_or_there,
                    arguments_are_refused_by_name_or_taken,
                    what_belongs_to_others_is_refused,
                    the_state_is_up,
                }
            }
        }
    };
    ($backend:ident $($module:ident { $($case:ident,)+ })+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::backends::$backend().await).await;
            }
        )+)+
    };
}

judge!(memory);
#[cfg(feature = "amqp")]
judge!(amqp);
#[cfg(feature = "mqtt")]
judge!(mqtt5);
#[cfg(feature = "mqtt")]
judge!(mqtt311);
