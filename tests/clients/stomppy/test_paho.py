"""paho-mqtt, a program that speaks MQTT 5 itself, beside stomp.py at a gateway: properties are where an MQTT user expects them."""

import unittest

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway import Gateway
from mosquitto import Mosquitto
from peer import PATIENCE, Inbox, Peer


class Device:
    """An MQTT client that keeps what arrives."""

    def __init__(self, port):
        self.messages = Inbox("a message of MQTT")
        self.granted = Inbox("a SUBACK")
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_subscribe = lambda client, data, packet, reasons, properties: self.granted.put(reasons)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def drop(self):
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic, qos=2):
        self.client.subscribe(topic, qos)
        self.granted.next()

    def publish(self, topic, body, qos=1, retain=False, **named):
        properties = Properties(PacketTypes.PUBLISH)
        for name, value in named.items():
            setattr(properties, name, value)
        self.client.publish(topic, body, qos, retain, properties).wait_for_publish(PATIENCE)


class BesideMosquitto(unittest.TestCase):
    """One Mosquitto and one gateway in front of it; each test has topics of its own name."""

    @classmethod
    def setUpClass(cls):
        cls.mosquitto = Mosquitto()
        cls.addClassCleanup(cls.mosquitto.stop)
        cls.gateway = Gateway({
            "STOMPGATE_BROKER__KIND": "mqtt",
            "STOMPGATE_BROKER__MQTT__URI": cls.mosquitto.uri,
            "STOMPGATE_BROKER__MQTT__SUBSCRIBE_QOS": "2",
        }).start()
        cls.addClassCleanup(cls.gateway.stop)

    def setUp(self):
        self.name = self.id().rpartition(".")[2]
        self.device = Device(self.mosquitto.port)
        self.addCleanup(self.device.drop)
        self.browser = Peer(self.gateway)
        self.addCleanup(self.browser.drop)
        self.browser.connect("ada", "secret")


class FromBrowserToPaho(BesideMosquitto):
    def test_every_property_is_where_it_belongs(self):
        self.device.subscribe(f"{self.name}/#")
        headers = {"content-type": "text/plain", "correlation-id": "c-1", "reply-to": "answers/here"}
        more = {"expiration": "59001", "qos": "2", "foo": "bar", "priority": "7"}
        self.browser.send(f"/topic/{self.name}.a", "body", **headers, **more)
        message = self.device.messages.next()
        self.assertEqual((message.topic, message.payload, message.qos), (f"{self.name}/a", b"body", 2))
        properties = message.properties
        self.assertEqual(properties.ContentType, "text/plain")
        self.assertEqual(properties.CorrelationData, b"c-1")
        self.assertEqual(properties.ResponseTopic, "answers/here")
        self.assertIn(properties.MessageExpiryInterval, range(50, 61))
        self.assertEqual(properties.PayloadFormatIndicator, 1)
        user = dict(properties.UserProperty)
        self.assertEqual((user["foo"], user["priority"], user["stompgate-user"]), ("bar", "7", "ada"))

    def test_a_command_reaches_a_device_that_reads_a_queue(self):
        self.device.subscribe(f"$share/workers/queue/{self.name}", 1)
        self.browser.send(f"/queue/{self.name}", "work")
        message = self.device.messages.next()
        self.assertEqual((message.payload, message.qos), (b"work", 1))

    def test_the_last_value_is_kept(self):
        self.browser.send(f"/topic/{self.name}", "21.5", retain="true")
        self.device.subscribe(self.name)
        message = self.device.messages.next()
        self.assertEqual((message.payload, message.retain), (b"21.5", True))


class FromPahoToBrowser(BesideMosquitto):
    def test_every_property_is_a_header(self):
        inbox = self.browser.subscribe(f"/topic/{self.name}/+")
        self.device.publish(
            f"{self.name}/a",
            b"body",
            qos=2,
            ContentType="text/plain",
            CorrelationData=b"c-1",
            ResponseTopic="answers/here",
            MessageExpiryInterval=60,
            UserProperty=[("foo", "bar"), ("destination", "/topic/forged")],
        )
        frame = inbox.next()
        self.assertEqual(frame.body, "body")
        expected = {
            "destination": f"/topic/{self.name}/a",
            "content-type": "text/plain",
            "correlation-id": "c-1",
            "reply-to": "answers/here",
            "qos": "2",
            "foo": "bar",
        }
        self.assertEqual({name: frame.headers.get(name) for name in expected}, expected)
        self.assertIn(int(frame.headers["expiration"]), range(50_000, 60_001))

    def test_data_that_are_no_text_come_in_base64(self):
        inbox = self.browser.subscribe(f"/topic/{self.name}")
        self.device.publish(self.name, b"x", CorrelationData=b"\xff\x00")
        self.assertEqual(inbox.next().headers["correlation-id"], "base64:_wA")

    def test_a_device_answers_in_its_own_protocol(self):
        self.device.subscribe(f"{self.name}/ask")
        self.browser.send(
            f"/topic/{self.name}/ask", "1+1", **{"reply-to": "/temp-queue/answers", "correlation-id": "c-2"}
        )
        question = self.device.messages.next()
        properties = question.properties
        self.device.publish(properties.ResponseTopic, b"2", CorrelationData=properties.CorrelationData)
        answer = self.browser.strays.next()
        self.assertEqual((answer.body, answer.headers["correlation-id"]), ("2", "c-2"))

    def test_a_browser_answers_a_device(self):
        self.device.subscribe(f"{self.name}/answers")
        inbox = self.browser.subscribe(f"/topic/{self.name}/ask")
        self.device.publish(f"{self.name}/ask", b"1+1", ResponseTopic=f"{self.name}/answers")
        question = inbox.next()
        self.browser.send(f"/reply-queue/{question.headers['reply-to']}", "2")
        self.assertEqual(self.device.messages.next().payload, b"2")


if __name__ == "__main__":
    unittest.main()
