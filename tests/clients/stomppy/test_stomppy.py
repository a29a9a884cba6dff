"""stomp.py over WebSocket (`WSStompConnection`): the conversations that it must be able to have with the gateway."""

import itertools
import unittest

from gateway import Gateway
from peer import Peer, Refused

# Small enough to watch several, large enough for a busy machine: the gateway tolerates twice this.
HEARTBEAT = 1000

numbers = itertools.count()


def texts(messages):
    return [message.body for message in messages]


class Conversation(unittest.TestCase):
    """A test with destinations of its own, whose peers are taken away after it."""

    def setUp(self):
        number = next(numbers)
        self.topic, self.queue = f"/topic/talk-{number}", f"/queue/talk-{number}"

    def peer(self, *login, **options):
        peer = self.stranger(**options)
        peer.connected = peer.connect(*login)
        return peer

    def stranger(self, **options):
        """A peer that is not connected yet."""
        peer = Peer(self.gateway, **options)
        self.addCleanup(peer.drop)
        return peer


class OnSharedGateway(Conversation):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway().start()

    @classmethod
    def tearDownClass(cls):
        cls.gateway.stop()


class OnOwnGateway(Conversation):
    def setUp(self):
        super().setUp()
        self.gateway = Gateway().start()
        self.addCleanup(self.gateway.kill)


class Connecting(OnSharedGateway):
    def test_connects_and_is_told_who_it_is(self):
        alice = self.peer("alice", "secret")
        self.assertEqual(alice.connected["version"], "1.2")
        self.assertEqual(alice.connected["user-name"], "alice")
        self.assertIn("session", alice.connected)

    def test_the_sub_protocol_that_it_offers_is_chosen(self):
        alice = self.peer()
        self.assertEqual(alice.connection.transport.socket.headers["sec-websocket-protocol"], "v12.stomp")

    def test_no_sub_protocol_is_well_too(self):
        alice = self.peer(header=None)
        self.assertNotIn("sec-websocket-protocol", alice.connection.transport.socket.headers)
        self.assertEqual(alice.connected["version"], "1.2")

    def test_the_socket_ends_after_the_receipt_of_disconnect(self):
        alice, bob = self.peer(), self.peer()
        inbox = bob.subscribe(self.queue)
        for number in range(50):
            alice.connection.send(self.queue, str(number))
        alice.disconnect()
        self.assertEqual(texts(inbox.take(50)), [str(number) for number in range(50)])


class Messages(OnSharedGateway):
    def test_a_topic_brings_every_subscriber_a_copy(self):
        alice, bob = self.peer(), self.peer()
        inboxes = [alice.subscribe(self.topic), bob.subscribe(self.topic)]
        alice.send(self.topic, "Grüße, 世界", content_type="text/plain", mood="sunny")
        for inbox in inboxes:
            message = inbox.next()
            self.assertEqual(message.body, "Grüße, 世界")
            self.assertEqual(message.headers["destination"], self.topic)
            self.assertEqual(message.headers["content-type"], "text/plain")
            self.assertEqual(message.headers["mood"], "sunny")

    def test_wildcards_in_three_spellings(self):
        alice = self.peer()
        for one, many in [("*", "#"), ("*", "**"), ("+", "#")]:
            ones = alice.subscribe(f"{self.topic}.{one}.price")
            manies = alice.subscribe(f"{self.topic}.{many}")
            for name in ["eur.price", "eur.spot.price", "usd.price"]:
                alice.send(f"{self.topic}.{name}", name)
            self.assertEqual(texts(ones.take(2)), ["eur.price", "usd.price"], one)
            self.assertEqual(texts(manies.take(3)), ["eur.price", "eur.spot.price", "usd.price"], many)

    def test_a_question_is_answered_on_a_temp_queue(self):
        alice, bob = self.peer(), self.peer()
        questions = bob.subscribe(self.queue)
        alice.send(self.queue, "Marco!", **{"reply-to": "/temp-queue/answers", "correlation-id": "game:1"})
        question = questions.next()
        bob.send(question.headers["reply-to"], "Polo!", **{"correlation-id": question.headers["correlation-id"]})
        answer = alice.strays.next()
        self.assertEqual(answer.body, "Polo!")
        self.assertEqual(answer.headers["subscription"], "/temp-queue/answers")
        self.assertEqual(answer.headers["correlation-id"], "game:1")

    def test_header_values_with_escapes_come_back_unchanged(self):
        awkward = "Grüße: 世界 🌍\nzweite Zeile \\ Ende \\n"
        alice = self.peer()
        inbox = alice.subscribe(self.topic)
        alice.send(self.topic, "see header", subject=awkward)
        self.assertEqual(inbox.next().headers["subject"], awkward)

    def test_a_body_of_every_byte(self):
        every_byte = bytes(range(256)) * 2
        alice = self.peer(binary_mode=True, auto_decode=False)
        inbox = alice.subscribe(self.topic)
        alice.send(self.topic, every_byte, content_type="application/octet-stream")
        self.assertEqual(inbox.next().body, every_byte)

    def test_a_body_of_200_kb(self):
        large = "Zeile 世界 ÄÖÜ 0123456789\n" * 7_000
        alice = self.peer()
        inbox = alice.subscribe(self.queue)
        alice.send(self.queue, large)
        message = inbox.next()
        self.assertEqual(message.headers["content-length"], str(len(large.encode())))
        self.assertTrue(message.body == large, "the body came back changed")


class Acknowledging(OnSharedGateway):
    def three_received(self, ack):
        consumer = self.peer()
        inbox = consumer.subscribe(self.queue, ack)
        for body in ["one", "two", "three"]:
            consumer.send(self.queue, body)
        return consumer, inbox, inbox.take(3)

    def leftovers(self):
        """What the next consumer gets, until the one message that it sends itself."""
        consumer = self.peer()
        inbox = consumer.subscribe(self.queue)
        consumer.send(self.queue, "end of queue")
        left = []
        while (message := inbox.next()).body != "end of queue":
            self.assertEqual(message.headers["redelivered"], "true")
            left.append(message.body)
        return left

    def test_auto(self):
        consumer, _, _ = self.three_received("auto")
        consumer.disconnect()
        self.assertEqual(self.leftovers(), [])

    def test_client_settles_all_before(self):
        consumer, _, received = self.three_received("client")
        consumer.ack(received[1])
        consumer.disconnect()
        self.assertEqual(self.leftovers(), ["three"])

    def test_client_individual_settles_its_own(self):
        consumer, _, received = self.three_received("client-individual")
        consumer.ack(received[1])
        consumer.disconnect()
        self.assertEqual(self.leftovers(), ["one", "three"])

    def test_nack_brings_it_again(self):
        consumer, inbox, received = self.three_received("client-individual")
        self.assertNotEqual(received[0].headers.get("redelivered"), "true")
        consumer.nack(received[0])
        again = inbox.next()
        self.assertEqual((again.body, again.headers["redelivered"]), ("one", "true"))

    def test_nack_with_requeue_false_gives_it_up(self):
        consumer, _, received = self.three_received("client-individual")
        consumer.nack(received[0], requeue="false")
        consumer.disconnect()
        self.assertEqual(self.leftovers(), ["two", "three"])

    def test_a_consumer_that_vanishes_leaves_the_rest_to_the_next(self):
        consumer, _, received = self.three_received("client-individual")
        consumer.ack(received[0])
        consumer.drop()
        self.assertEqual(self.leftovers(), ["two", "three"])


class Transactions(OnSharedGateway):
    def test_commit_publishes_what_the_transaction_holds(self):
        alice, bob = self.peer(), self.peer()
        inbox = bob.subscribe(self.topic)
        transaction = alice.begin()
        alice.send(self.topic, "one", transaction=transaction)
        alice.send(self.topic, "two", transaction=transaction)
        alice.send(self.topic, "outside")
        self.assertEqual(inbox.next().body, "outside")
        alice.commit(transaction)
        self.assertEqual(texts(inbox.take(2)), ["one", "two"])

    def test_abort_publishes_nothing(self):
        alice, bob = self.peer(), self.peer()
        inbox = bob.subscribe(self.topic)
        transaction = alice.begin()
        alice.send(self.topic, "regretted", transaction=transaction)
        alice.abort(transaction)
        alice.send(self.topic, "meant")
        self.assertEqual(inbox.next().body, "meant")

    def test_an_ack_counts_at_commit_and_not_after_abort(self):
        alice = self.peer()
        inbox = alice.subscribe(self.queue, "client-individual")
        for body in ["kept", "dropped"]:
            alice.send(self.queue, body)
        kept, dropped = inbox.take(2)
        first, second = alice.begin(), alice.begin()
        alice.ack(kept, transaction=first)
        alice.ack(dropped, transaction=second)
        alice.commit(first)
        alice.abort(second)
        alice.disconnect()
        again = self.peer().subscribe(self.queue).next()
        self.assertEqual((again.body, again.headers["redelivered"]), ("dropped", "true"))


class Refusals(OnSharedGateway):
    def test_an_unknown_destination(self):
        alice = self.peer()
        with self.assertRaises(Refused) as refused:
            alice.send("/nowhere/at.all", "lost")
        headers = refused.exception.frame.headers
        self.assertEqual((headers["code"], headers["message"]), ("unknown-destination", "Unknown destination"))
        self.assertTrue(headers["receipt-id"].startswith("receipt-"))
        alice.ends.next()

    def test_bytes_in_a_text_message_that_are_not_utf_8(self):
        alice = self.peer(binary_mode=False)
        alice.connection.send(self.topic, b"\xff\xfe")
        alice.ends.next()


class Time(OnOwnGateway):
    def test_heart_beats_alone_keep_an_idle_connection(self):
        alice = self.peer(heartbeat=HEARTBEAT, heart_beat_receive_scale=2)
        self.assertEqual(alice.connected["heart-beat"], f"{HEARTBEAT},{HEARTBEAT}")
        inbox = alice.subscribe(self.topic)
        alice.heartbeats.take(4)
        alice.send(self.topic, "still here")
        self.assertEqual(inbox.next().body, "still here")

    def test_it_notices_that_the_gateway_froze(self):
        alice = self.peer(heartbeat=HEARTBEAT)
        alice.heartbeats.next()
        self.gateway.freeze()
        alice.losses.next()
        self.gateway.thaw()
        alice.ends.next()

    def test_it_is_back_after_the_gateway_was_killed_with_its_subscription(self):
        alice = self.peer(reconnect_attempts_max=-1)
        inbox = alice.subscribe(self.topic)
        alice.comes_back = True
        self.gateway.kill()
        alice.ends.next()
        self.gateway.start()
        alice.returns.next()
        alice.send(self.topic, "news after the crash")
        self.assertEqual(inbox.next().body, "news after the crash")

    def test_a_gateway_that_stops_ends_its_connections(self):
        alice = self.peer()
        self.gateway.stop()
        alice.ends.next()


if __name__ == "__main__":
    unittest.main()
