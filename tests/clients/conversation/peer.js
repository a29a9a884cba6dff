// One client in a conversation: what all STOMP clients can do, with each one's own way left to its adapter.
//
// An adapter extends Peer with
//   publish(destination, body, headers)            one SEND; body is text, or bytes where the client can
//   listen(destination, onMessage, headers)        one SUBSCRIBE; hands out the client's own messages, which have
//                                                  ack(headers) and nack(headers); returns how to unsubscribe
//   begin()                                        one BEGIN; returns { id, commit(), abort() }
//   watchReceipt(id, onReceipt)
//   disconnect()                                   the client's own; resolves when the socket is closed
//   drop()                                         away without DISCONNECT, and without reconnecting
// and calls heard…() when its client tells it something.

import { Inbox } from './inbox.js';

/** Thrown into whatever waits when the gateway answers with ERROR. */
export class Refused extends Error {
  constructor(frame) {
    super(`ERROR ${frame.headers.message}: ${frame.body}`);
    this.frame = frame;
  }
}

export class Peer {
  connects = new Inbox('CONNECTED');
  errors = new Inbox('an ERROR');
  closes = new Inbox('the close of the WebSocket');
  heartbeats = new Inbox('a heart-beat');
  losses = new Inbox('the client to miss heart-beats');
  strays = new Inbox('a MESSAGE that belongs to no subscription');
  /** The headers of the latest CONNECTED. */
  connected = undefined;
  /** Every WebSocket message that the client wrote, as its size and kind. */
  written = [];
  muted = false;
  #receipts = 0;
  #waits = new Set();

  get version() {
    return this.connected.version;
  }

  /** SEND, and its RECEIPT. */
  send(destination, body, headers = {}) {
    return this.#confirmed(receipt => this.publish(destination, body, { ...headers, receipt }));
  }

  /** SUBSCRIBE, and its RECEIPT: from here on nothing is missed. */
  async subscribe(destination, headers = {}) {
    const inbox = new Inbox(`a MESSAGE from ${destination}`);
    this.#waits.add(inbox);
    await this.#confirmed(receipt => {
      const heard = message => inbox.put(this.#readable(message));
      inbox.unsubscribe = this.listen(destination, heard, { ...headers, receipt });
    });
    return inbox;
  }

  heardConnected(headers) {
    this.connected = headers;
    this.connects.put(headers);
  }

  heardStray(message) {
    this.strays.put(this.#readable(message));
  }

  heardError({ headers, body }) {
    const frame = { headers, body };
    [this.connects, ...this.#waitsOnSession].forEach(wait => wait.fail(new Refused(frame)));
    this.errors.put(frame);
  }

  /** What cannot arrive any more when the session ends. */
  get #waitsOnSession() {
    return [this.strays, this.heartbeats, ...this.#waits];
  }

  /** Sees all that passes over `socket`, without changing it; `muted` swallows the client's heart-beats. */
  over(socket) {
    const send = socket.send.bind(socket);
    socket.send = data => {
      if (this.muted && data === '\n') return;
      this.written.push({ binary: typeof data !== 'string', size: data.length ?? data.byteLength });
      send(data);
    };
    socket.addEventListener('close', ({ code, reason, wasClean }) => {
      const closed = new Error(`the WebSocket was closed: ${code} ${reason}`);
      [this.errors, ...this.#waitsOnSession].forEach(wait => wait.fail(closed));
      if (!this.connected) this.connects.fail(closed);
      this.closes.put({ code, reason, wasClean });
    });
    this.socket = socket;
    return socket;
  }

  async #confirmed(transmit) {
    const id = `receipt-${this.#receipts++}`;
    const inbox = new Inbox(`RECEIPT ${id}`);
    this.#waits.add(inbox);
    this.watchReceipt(id, frame => inbox.put(frame));
    transmit(id);
    const frame = await inbox.next();
    this.#waits.delete(inbox);
    return frame;
  }

  /** What scenarios read of the client's own message; `ack` and `nack` resolve with their RECEIPT. */
  #readable(message) {
    const { headers, body, binaryBody } = message;
    const confirmed = how => (extra = {}) => this.#confirmed(receipt => message[how]({ ...extra, receipt }));
    return { headers, body, bytes: binaryBody, ack: confirmed('ack'), nack: confirmed('nack') };
  }
}
