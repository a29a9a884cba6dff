// How a session ends, whoever ends it, and how it comes back.

import { bodies, equal, ok } from '../expect.js';
import { HEARTBEATS } from './heartbeats.js';

export const endings = [
  {
    title: 'DISCONNECT is answered by its RECEIPT, then the gateway closes with 1000',
    needs: 'wait for the RECEIPT of DISCONNECT',
    async play({ connect }) {
      const alice = await connect();
      await alice.disconnect();
      const { code, wasClean } = await alice.closes.next();
      equal([code, wasClean], [1000, true], 'close');
    },
  },
  {
    title: 'what is sent right before disconnecting arrives',
    async play({ connect, queue }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(queue);
      for (let count = 0; count < 50; count++) alice.publish(queue, `${count}`, {});
      await alice.disconnect();
      equal((await alice.closes.next()).wasClean, true, 'wasClean');
      equal(bodies(await inbox.take(50)).at(-1), '49', 'last');
    },
  },
  {
    title: 'a gateway that stops says so: 1012',
    own: {},
    async play({ connect, gateway }) {
      const alice = await connect();
      const stopped = gateway.stop();
      equal((await alice.closes.next()).code, 1012, 'close');
      await stopped;
    },
  },
  {
    title: 'is back by itself after the gateway was killed, with its subscription',
    needs: 'reconnect by itself',
    own: {},
    async play({ connect, gateway, topic }) {
      const alice = await connect({ reconnect: true });
      const inbox = await alice.subscribe(topic);
      const first = alice.connected.session;
      await gateway.kill();
      await alice.closes.next();
      await gateway.start();
      await backAgain(alice, topic);
      ok(alice.connected.session !== first, 'this is the old session');
      const bob = await connect();
      await bob.send(topic, 'news after the crash');
      equal((await inbox.next()).body, 'news after the crash');
    },
  },
  {
    title: 'the application connects again after the gateway was killed',
    own: {},
    async play({ connect, gateway, topic }) {
      const before = await connect();
      await gateway.kill();
      equal((await before.closes.next()).wasClean, false, 'wasClean');
      await gateway.start();
      const after = await connect();
      const inbox = await after.subscribe(topic);
      await after.send(topic, 'news after the crash');
      equal((await inbox.next()).body, 'news after the crash');
    },
  },
  {
    title: 'a client notices that the gateway froze',
    own: {},
    async play({ connect, gateway }) {
      const alice = await connect({ heartbeats: HEARTBEATS });
      await alice.heartbeats.next();
      gateway.freeze();
      await alice.losses.next();
      gateway.thaw();
      await alice.closes.next();
    },
  },
  {
    title: 'is back by itself after the gateway froze, with its subscription',
    needs: 'reconnect by itself',
    own: {},
    async play({ connect, gateway, topic }) {
      const alice = await connect({ heartbeats: HEARTBEATS, reconnect: true });
      const inbox = await alice.subscribe(topic);
      await alice.heartbeats.next();
      gateway.freeze();
      await alice.losses.next();
      gateway.thaw();
      await alice.closes.next();
      await backAgain(alice, topic);
      await alice.send(topic, 'awake again');
      equal((await inbox.next()).body, 'awake again');
    },
  },
];

/** Waits until a client that reconnects has its session and its subscriptions again. */
async function backAgain(peer, topic) {
  await peer.connects.next();
  // Frames are handled in order, so a RECEIPT now says that the SUBSCRIBE before it is done.
  await peer.send(`${topic}.elsewhere`, 'ping');
}
