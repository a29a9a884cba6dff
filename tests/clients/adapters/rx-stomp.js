// @stomp/rx-stomp: observables over stompjs, which it keeps subscribed over reconnects.

import { RxStomp } from '@stomp/rx-stomp';
import { first } from 'rxjs';
import WebSocket from 'ws';
import { Peer } from '../conversation/peer.js';
import { publication, settings } from './stompjs.js';

class RxPeer extends Peer {
  rx = new RxStomp();

  constructor(url, options) {
    super();
    this.rx.configure(settings(this, WebSocket, url, options));
    this.rx.serverHeaders$.subscribe(headers => (this.connected = headers));
    this.rx.connected$.subscribe(() => this.heardConnected(this.connected));
    this.rx.stompErrors$.subscribe(frame => this.heardError(frame));
    this.rx.unhandledMessage$.subscribe(message => this.heardStray(message));
  }

  publish(destination, body, headers) {
    this.rx.publish(publication(destination, body, headers));
  }

  listen(destination, onMessage, { receipt, ...headers }) {
    // `watch` subscribes again after a reconnect, when nobody waits for a RECEIPT any more.
    let asked = receipt ? { receipt } : {};
    const subHeaders = () => {
      const first = { ...headers, ...asked };
      asked = {};
      return first;
    };
    const watched = this.rx.watch({ destination, subHeaders }).subscribe(onMessage);
    return () => watched.unsubscribe();
  }

  begin() {
    return this.rx.stompClient.begin();
  }

  watchReceipt(id, onReceipt) {
    // As asyncReceipt does, but heard at once: its promise may come after the ERROR that follows the RECEIPT.
    const isIt = frame => frame.headers['receipt-id'] === id;
    this.rx.unhandledReceipts$.pipe(first(isIt)).subscribe(onReceipt);
  }

  disconnect() {
    return this.rx.deactivate();
  }

  drop() {
    return this.rx.deactivate({ force: true });
  }
}

export const rxStomp = {
  name: '@stomp/rx-stomp 2',
  versions: ['1.0', '1.1', '1.2'],
  cannot: {},
  async connect(url, options = {}) {
    const peer = new RxPeer(url, options);
    peer.rx.activate();
    await peer.connects.next();
    return peer;
  },
};
