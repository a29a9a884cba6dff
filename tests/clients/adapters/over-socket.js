// What stompjs 2.3 and webstomp-client share: a client over a WebSocket that is made first, callbacks for everything,
// no escaping of headers, no reconnecting, and a disconnect that does not wait.

import { Peer } from '../conversation/peer.js';

export class OverSocket extends Peer {
  #receipts = new Map();

  /** Takes over `client` and connects it. */
  attach(client, headers = {}) {
    this.client = client;
    client.debug = text => {
      if (text === '<<< PONG') this.heartbeats.put('received');
      if (/^did not receive server activity/.test(text)) this.losses.put('lost');
    };
    client.onreceipt = frame => this.#receipts.get(frame.headers['receipt-id'])?.(frame);
    client.onreceive = message => this.heardStray(message);
    // The client calls the error callback for an ERROR frame, and with something else when the socket closes.
    const onError = frame => frame?.command === 'ERROR' && this.heardError(frame);
    client.connect(headers, ({ headers }) => this.heardConnected(headers), onError);
  }

  begin() {
    return this.client.begin();
  }

  watchReceipt(id, onReceipt) {
    this.#receipts.set(id, onReceipt);
  }

  async disconnect() {
    this.client.disconnect();
    const close = await this.closes.next();
    this.closes.put(close);
  }

  drop() {
    this.client._cleanUp(); // its only way to end the heart-beat timers without a DISCONNECT
    this.socket.terminate();
  }
}

/** What neither can do, and why. */
export const cannot = {
  'reconnect by itself': 'the client leaves reconnecting to the application',
  'escape headers': 'the client neither escapes nor unescapes headers',
  'send bytes': 'the client knows text bodies only',
  'wait for the RECEIPT of DISCONNECT': 'the client closes the socket right after DISCONNECT',
};
