// webstomp-client: the fork of stompjs 2.3 that learned STOMP 1.2.

import webstomp from 'webstomp-client';
import WebSocket from 'ws';
import { OverSocket, cannot } from './over-socket.js';

class Webstomp extends OverSocket {
  publish(destination, body, headers) {
    this.client.send(destination, body, headers);
  }

  listen(destination, onMessage, headers) {
    const subscription = this.client.subscribe(destination, onMessage, headers);
    return extra => subscription.unsubscribe(extra);
  }
}

export const webstompClient = {
  name: 'webstomp-client 1.2',
  versions: ['1.0', '1.1', '1.2'],
  cannot,
  async connect(url, { version, headers, heartbeats = [0, 0], binaryFrames = false } = {}) {
    const peer = new Webstomp();
    const protocols = version ? [`v${version.replace('.', '')}.stomp`] : ['v10.stomp', 'v11.stomp', 'v12.stomp'];
    const [outgoing, incoming] = heartbeats;
    const options = { protocols, binary: binaryFrames, heartbeat: { outgoing, incoming } };
    peer.attach(webstomp.over(peer.over(new WebSocket(url, protocols)), options), headers);
    await peer.connects.next();
    return peer;
  },
};
