"""One stomp.py client in a conversation: it asks for receipts, and keeps what arrives for whoever waits."""

import itertools
from queue import Empty, Queue

import stomp

# Long after anything that works; a wait that reaches it is a failure with a name rather than a test that hangs.
PATIENCE = 20

# stomp.py offers no sub-protocol by itself, and hands on the headers that it is given.
SUB_PROTOCOL = {"Sec-WebSocket-Protocol": "v12.stomp"}


class Refused(Exception):
    """The gateway answered with ERROR."""

    def __init__(self, frame):
        super().__init__(f"ERROR {frame.headers.get('message')}: {frame.body}")
        self.frame = frame


class Inbox:
    """What arrives, in order. `what` completes the sentence "waited for …"."""

    def __init__(self, what):
        self.what = what
        self._arrived = Queue()

    def put(self, item):
        self._arrived.put(item)

    def next(self):
        try:
            item = self._arrived.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"waited {PATIENCE} s for {self.what}") from None
        if isinstance(item, Exception):
            raise item
        return item

    def take(self, count):
        return [self.next() for _ in range(count)]


class Peer(stomp.ConnectionListener):
    def __init__(self, gateway, heartbeat=0, header=SUB_PROTOCOL, **options):
        self.connects = Inbox("CONNECTED")
        self.errors = Inbox("an ERROR")
        self.ends = Inbox("the end of the connection")
        self.heartbeats = Inbox("a heart-beat")
        self.losses = Inbox("the client to miss heart-beats")
        self.returns = Inbox("the client to be back with its subscriptions")
        self.strays = Inbox("a MESSAGE that belongs to no subscription")
        self.comes_back = False
        self._inboxes = {}
        self._subscriptions = []
        self._receipts = {}
        self._ids = map(str, itertools.count())
        self.connection = stomp.WSStompConnection(
            [("127.0.0.1", gateway.port)],
            ws_path="/ws",
            heartbeats=(heartbeat, heartbeat),
            header=header,
            **options,
        )
        self.connection.set_listener("peer", self)

    def connect(self, *login):
        self.connection.connect(*login, wait=True)
        return self.connects.next()

    # What stomp.py hears, on a thread of its own.

    def on_connected(self, frame):
        self.connects.put(frame.headers)

    def on_message(self, frame):
        self._inboxes.get(frame.headers["subscription"], self.strays).put(frame)

    def on_receipt(self, frame):
        # stomp.py asks for a receipt of its own when it disconnects.
        if receipt := self._receipts.get(frame.headers["receipt-id"]):
            receipt.put(frame)

    def on_error(self, frame):
        self.errors.put(frame)
        for waited in [*self._receipts.values(), *self._inboxes.values(), self.heartbeats]:
            waited.put(Refused(frame))

    def on_disconnected(self):
        self.ends.put("disconnected")
        if self.comes_back:
            # As its manual says: connect and subscribe again from here; it tries until someone listens.
            self.connect()
            for subscribe in self._subscriptions:
                self._confirmed(subscribe)
            self.returns.put("back")

    def on_heartbeat(self):
        self.heartbeats.put("received")

    def on_heartbeat_timeout(self):
        self.losses.put("lost")

    # What a conversation says.

    def send(self, destination, body, **headers):
        return self._confirmed(lambda receipt: self.connection.send(destination, body, receipt=receipt, **headers))

    def subscribe(self, destination, ack="auto", **headers):
        identity = next(self._ids)
        inbox = self._inboxes[identity] = Inbox(f"a MESSAGE from {destination}")

        def subscribe(receipt):
            self.connection.subscribe(destination, identity, ack, receipt=receipt, **headers)

        self._confirmed(subscribe)
        self._subscriptions.append(subscribe)
        return inbox

    def ack(self, message, **headers):
        return self._confirmed(lambda receipt: self.connection.ack(message.headers["ack"], receipt=receipt, **headers))

    def nack(self, message, **headers):
        return self._confirmed(lambda receipt: self.connection.nack(message.headers["ack"], receipt=receipt, **headers))

    def begin(self):
        transaction = f"transaction-{next(self._ids)}"
        self._confirmed(lambda receipt: self.connection.begin(transaction, receipt=receipt))
        return transaction

    def commit(self, transaction):
        return self._confirmed(lambda receipt: self.connection.commit(transaction, receipt=receipt))

    def abort(self, transaction):
        return self._confirmed(lambda receipt: self.connection.abort(transaction, receipt=receipt))

    def disconnect(self):
        """DISCONNECT; stomp.py ends the socket when its RECEIPT is there."""
        self.connection.disconnect()
        return self.ends.next()

    def drop(self):
        """Away without DISCONNECT, and for good."""
        self.comes_back = False
        self.connection.transport.disconnect_socket()

    def _confirmed(self, transmit):
        identity = f"receipt-{next(self._ids)}"
        receipt = self._receipts[identity] = Inbox(f"RECEIPT {identity}")
        transmit(identity)
        frame = receipt.next()
        del self._receipts[identity]
        return frame
