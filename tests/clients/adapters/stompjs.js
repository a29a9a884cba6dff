// @stomp/stompjs 7. The same file serves Node, where `ws` is the WebSocket, and browsers, which have their own.

import { Client, Versions } from '@stomp/stompjs';
import { Peer } from '../conversation/peer.js';

/** The client's settings for what a scenario asks of `connect`, for stompjs and all that is built on it. */
export function settings(peer, WebSocket, url, options) {
  const [heartbeatOutgoing, heartbeatIncoming] = options.heartbeats ?? [0, 0];
  const stompVersions = new Versions(options.version ? [options.version] : ['1.2', '1.1', '1.0']);
  return {
    webSocketFactory: () => peer.over(new WebSocket(url, stompVersions.protocolVersions())),
    stompVersions,
    connectHeaders: options.headers,
    heartbeatOutgoing,
    heartbeatIncoming,
    reconnectDelay: options.reconnect ? 100 : 0,
    splitLargeFrames: options.split ?? false,
    forceBinaryWSFrames: options.binaryFrames ?? false,
    onHeartbeatReceived: () => peer.heartbeats.put('received'),
    onHeartbeatLost: () => peer.losses.put('lost'),
  };
}

/** A SEND as stompjs wants it. */
export function publication(destination, body, headers) {
  return typeof body === 'string' ? { destination, headers, body } : { destination, headers, binaryBody: body };
}

class StompJs extends Peer {
  #listens = [];

  constructor(WebSocket, url, options) {
    super();
    this.client = new Client({
      ...settings(this, WebSocket, url, options),
      onConnect: ({ headers }) => {
        // Its manual says to subscribe in onConnect; so does whoever wants to be back after a reconnect.
        this.#listens.forEach(listen => listen());
        this.heardConnected(headers);
      },
      onStompError: frame => this.heardError(frame),
      onUnhandledMessage: message => this.heardStray(message),
    });
  }

  publish(destination, body, headers) {
    this.client.publish(publication(destination, body, headers));
  }

  listen(destination, onMessage, { receipt, ...headers }) {
    const listen = (extra = {}) => this.client.subscribe(destination, onMessage, { ...headers, ...extra });
    this.#listens.push(listen);
    const subscription = listen(receipt ? { receipt } : {});
    return extra => {
      this.#listens = this.#listens.filter(other => other !== listen);
      subscription.unsubscribe(extra);
    };
  }

  begin() {
    return this.client.begin();
  }

  watchReceipt(id, onReceipt) {
    this.client.watchForReceipt(id, onReceipt);
  }

  disconnect() {
    return this.client.deactivate();
  }

  drop() {
    return this.client.deactivate({ force: true });
  }
}

export const stompjs = WebSocket => ({
  name: '@stomp/stompjs 7',
  versions: ['1.0', '1.1', '1.2'],
  cannot: {},
  async connect(url, options = {}) {
    const peer = new StompJs(WebSocket, url, options);
    peer.client.activate();
    await peer.connects.next();
    return peer;
  },
});
