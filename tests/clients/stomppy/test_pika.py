"""pika, a program that speaks AMQP itself, beside stomp.py at a gateway: properties are where a RabbitMQ user expects them."""

import json
import unittest
from datetime import datetime, timezone
from decimal import Decimal

import pika

from gateway import Gateway
from peer import PATIENCE, Peer
from rabbitmq import RabbitMq


class BesideRabbitMq(unittest.TestCase):
    """One RabbitMQ and one gateway in front of it; each test has a queue and a topic of its own name."""

    @classmethod
    def setUpClass(cls):
        cls.rabbitmq = RabbitMq()
        cls.addClassCleanup(cls.rabbitmq.stop)
        cls.gateway = Gateway({
            "STOMPGATE_BROKER__KIND": "amqp",
            "STOMPGATE_BROKER__AMQP__URI": cls.rabbitmq.uri,
        }).start()
        cls.addClassCleanup(cls.gateway.stop)

    def setUp(self):
        self.name = self.id().rpartition(".")[2]
        self.connection = pika.BlockingConnection(pika.URLParameters(self.rabbitmq.uri))
        self.addCleanup(self.connection.close)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.browser = self.another()

    def another(self, **options):
        """A browser-side client, connected."""
        browser = Peer(self.gateway, **options)
        self.addCleanup(browser.drop)
        browser.connect("ada", "secret")
        return browser

    def publish(self, exchange, key, body, **properties):
        """Publishes; an unroutable message is an error."""
        self.channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties), mandatory=True)

    def consume(self, queue):
        """The next message of a queue: its routing, its properties and its body."""
        for method, properties, body in self.channel.consume(queue, inactivity_timeout=PATIENCE):
            self.assertIsNotNone(method, f"waited {PATIENCE} s for a message in {queue}")
            self.channel.basic_ack(method.delivery_tag)
            self.channel.cancel()
            return method, properties, body


class FromBrowserToPika(BesideRabbitMq):
    def test_every_property_is_where_it_belongs(self):
        self.browser.send(
            f"/queue/{self.name}",
            "body",
            **{
                "content-type": "text/plain;charset=utf-8",
                "content-encoding": "identity",
                "priority": "4",
                "correlation-id": "c-1",
                "reply-to": "answers",
                "expiration": "60000",
                "amqp-message-id": "m-1",
                "timestamp": "1700000000",
                "type": "order",
                "app-id": "shop",
                "x-colour": "blue",
                "Umlaut": "Ü",
                "number": "7",
            },
        )
        method, properties, body = self.consume(self.name)
        self.assertEqual(body, b"body")
        self.assertEqual((method.exchange, method.routing_key), ("", self.name))
        self.assertEqual(properties.content_type, "text/plain;charset=utf-8")
        self.assertEqual(properties.content_encoding, "identity")
        self.assertEqual(properties.delivery_mode, 2)
        self.assertEqual(properties.priority, 4)
        self.assertEqual(properties.correlation_id, "c-1")
        self.assertEqual(properties.reply_to, "answers")
        self.assertEqual(properties.expiration, "60000")
        self.assertEqual(properties.message_id, "m-1")
        self.assertEqual(properties.timestamp, 1700000000)
        self.assertEqual(properties.type, "order")
        self.assertEqual(properties.app_id, "shop")
        self.assertIsNone(properties.user_id, "the account is the gateway's, not the user's")
        # What is no property is text in the headers table, and nothing else is in it.
        self.assertEqual(
            properties.headers, {"x-colour": "blue", "Umlaut": "Ü", "number": "7", "stompgate-user": "ada"}
        )

    def test_what_is_not_said_is_not_there(self):
        self.browser.send(f"/queue/{self.name}", "body")
        _, properties, _ = self.consume(self.name)
        said = {name: value for name, value in vars(properties).items() if value is not None}
        self.assertEqual(said, {"delivery_mode": 2, "headers": {"stompgate-user": "ada"}})

    def test_persistent_is_the_delivery_mode(self):
        for said, mode in [("true", 2), ("false", 1)]:
            self.browser.send(f"/queue/{self.name}", "body", persistent=said)
            self.assertEqual(self.consume(self.name)[1].delivery_mode, mode)

    def test_a_topic_is_a_routing_key(self):
        queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.queue_bind(queue, "amq.topic", f"{self.name}.#")
        for destination in [f"/topic/{self.name}/a/b", f"/topic/{self.name}.a.b", f"/exchange/amq.topic/{self.name}.a.b"]:
            self.browser.send(destination, "news")
            method, _, body = self.consume(queue)
            self.assertEqual((method.exchange, method.routing_key), ("amq.topic", f"{self.name}.a.b"))
            self.assertEqual(body, b"news")

    def test_an_exchange_is_its_own(self):
        self.channel.exchange_declare(self.name, "headers", auto_delete=True)
        queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.queue_bind(queue, self.name, arguments={"x-match": "all", "colour": "blue"})
        red = self.browser.send(f"/exchange/{self.name}", "red", colour="red")
        self.assertEqual(red.headers.get("routed"), "false")
        self.browser.send(f"/exchange/{self.name}/key", "blue", colour="blue")
        method, _, body = self.consume(queue)
        self.assertEqual((method.routing_key, body), ("key", b"blue"))

    def test_a_body_is_bytes(self):
        browser = self.another(binary_mode=True)
        browser.send(f"/queue/{self.name}", bytes(range(256)))
        self.assertEqual(self.consume(self.name)[2], bytes(range(256)))

    def test_a_request_is_answered_by_its_reply_to(self):
        self.browser.send(
            f"/queue/{self.name}", "1+1", **{"reply-to": "/temp-queue/answers", "correlation-id": "c-1"}
        )
        _, request, _ = self.consume(self.name)
        self.publish("", request.reply_to, b"2", correlation_id=request.correlation_id)
        reply = self.browser.strays.next()
        self.assertEqual(reply.body, "2")
        self.assertEqual(reply.headers["subscription"], "/temp-queue/answers")
        self.assertEqual(reply.headers["correlation-id"], "c-1")


class FromPikaToBrowser(BesideRabbitMq):
    def test_every_property_is_a_header(self):
        messages = self.browser.subscribe(f"/queue/{self.name}")
        self.publish(
            "",
            self.name,
            b"body",
            content_type="text/plain",
            content_encoding="identity",
            delivery_mode=2,
            priority=4,
            correlation_id="c-1",
            reply_to="answers",
            expiration="60000",
            message_id="m-1",
            timestamp=1700000000,
            type="order",
            user_id="guest",
            app_id="shop",
        )
        message = messages.next()
        self.assertEqual(message.body, "body")
        self.assertNotEqual(message.headers.pop("message-id"), "m-1")
        self.assertEqual(
            message.headers,
            {
                "subscription": "0",
                "destination": f"/queue/{self.name}",
                "content-length": "4",
                "content-type": "text/plain",
                "content-encoding": "identity",
                "persistent": "true",
                "priority": "4",
                "correlation-id": "c-1",
                "reply-to": "answers",
                "expiration": "60000",
                "amqp-message-id": "m-1",
                "timestamp": "1700000000",
                "type": "order",
                "user-id": "guest",
                "app-id": "shop",
            },
        )

    def test_every_type_of_the_headers_table_is_text(self):
        messages = self.browser.subscribe(f"/queue/{self.name}")
        moment = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc).replace(tzinfo=None)
        types = {
            "text": ("Ü", "Ü"),
            "bytes": (b"raw", "raw"),
            "yes": (True, "true"),
            "no": (False, "false"),
            "small": (-7, "-7"),
            "large": (2**40, str(2**40)),
            "decimal": (Decimal("1.25"), "125e-2"),
            "moment": (moment, "1700000000"),
            "nothing": (None, ""),
            "array": ([1, "two", False, None], '[1,"two",false,null]'),
            "table": ({"a": {"b": [1]}}, '{"a":{"b":[1]}}'),
            "quotes": (["\"\n"], '["\\"\\u000a"]'),
        }
        self.publish("", self.name, b"", headers={name: value for name, (value, _) in types.items()})
        headers = messages.next().headers
        self.assertEqual({name: headers[name] for name in types}, {name: text for name, (_, text) in types.items()})
        for name in ["array", "table", "quotes"]:
            self.assertEqual(json.loads(headers[name]), types[name][0])

    def test_a_body_is_bytes(self):
        browser = self.another(auto_decode=False)
        messages = browser.subscribe(f"/queue/{self.name}")
        self.publish("", self.name, bytes(range(256)))
        self.assertEqual(messages.next().body, bytes(range(256)))

    def test_what_only_the_gateway_says_is_not_taken_from_the_table(self):
        messages = self.browser.subscribe(f"/queue/{self.name}")
        forged = ["subscription", "message-id", "ack", "redelivered", "gap", "destination", "content-length"]
        self.publish("", self.name, b"x", headers={**dict.fromkeys(forged, "forged"), "honest": "yes"})
        headers = messages.next().headers
        self.assertEqual(headers["honest"], "yes")
        self.assertNotIn("forged", headers.values())

    def test_a_routing_key_is_a_topic(self):
        slashes = self.browser.subscribe(f"/topic/{self.name}/*/b")
        dots = self.browser.subscribe(f"/topic/{self.name}.#")
        exchange = self.browser.subscribe(f"/exchange/amq.topic/{self.name}.#")
        self.publish("amq.topic", f"{self.name}.a.b", b"news")
        self.assertEqual(slashes.next().headers["destination"], f"/topic/{self.name}/a/b")
        self.assertEqual(dots.next().headers["destination"], f"/topic/{self.name}.a.b")
        self.assertEqual(exchange.next().body, "news")

    def test_a_queue_of_its_own_is_read_and_acknowledged(self):
        self.channel.queue_declare(self.name, durable=False, auto_delete=True)
        self.publish("", self.name, b"1")
        self.publish("", self.name, b"2")
        messages = self.browser.subscribe(f"/amq/queue/{self.name}", ack="client-individual")
        first, second = messages.take(2)
        self.browser.ack(first)
        self.browser.nack(second)
        again = messages.next()
        self.assertEqual((again.body, again.headers["redelivered"]), ("2", "true"))

    def test_a_direct_reply_finds_its_way(self):
        requests = self.browser.subscribe(f"/queue/{self.name}")
        # RabbitMQ's direct reply-to: consumed, and then asked for, on one channel.
        replies = []
        self.channel.basic_consume("amq.rabbitmq.reply-to", lambda *reply: replies.append(reply), auto_ack=True)
        self.publish("", self.name, b"1+1", reply_to="amq.rabbitmq.reply-to", correlation_id="c-1")
        request = requests.next()
        self.browser.send(request.headers["reply-to"], "2", **{"correlation-id": request.headers["correlation-id"]})
        self.connection.process_data_events(PATIENCE)
        [(_, _, properties, body)] = replies
        self.assertEqual((properties.correlation_id, body), ("c-1", b"2"))


if __name__ == "__main__":
    unittest.main()
