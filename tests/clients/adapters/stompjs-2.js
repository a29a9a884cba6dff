// stompjs 2.3: the client that most old tutorials show, long unmaintained and still widely deployed.

import Stomp from 'stompjs';
import WebSocket from 'ws';
import { OverSocket, cannot } from './over-socket.js';

class StompJs2 extends OverSocket {
  publish(destination, body, headers) {
    this.client.send(destination, headers, body);
  }

  listen(destination, onMessage, headers) {
    const subscription = this.client.subscribe(destination, onMessage, headers);
    return () => subscription.unsubscribe();
  }
}

export const stompjs2 = {
  name: 'stompjs 2.3',
  versions: ['1.0', '1.1'],
  cannot: { ...cannot, 'send binary WebSocket messages': 'the client sends text messages only' },
  async connect(url, { version, headers, heartbeats: [outgoing, incoming] = [0, 0] } = {}) {
    const peer = new StompJs2();
    const protocols = { '1.0': ['v10.stomp'], '1.1': ['v11.stomp'] }[version] ?? ['v10.stomp', 'v11.stomp'];
    const client = Stomp.over(peer.over(new WebSocket(url, protocols)));
    // The only way to have it ask for one version.
    Stomp.VERSIONS.supportedVersions = () => version ?? '1.1,1.0';
    client.heartbeat = { outgoing, incoming };
    peer.attach(client, headers);
    await peer.connects.next();
    return peer;
  },
};
