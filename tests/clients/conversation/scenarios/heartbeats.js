// The passage of time: what keeps a connection, and what ends it.

import { equal, ok } from '../expect.js';

/** Small enough to watch several, large enough for a busy machine: the gateway tolerates twice this. */
export const HEARTBEATS = [1_000, 1_000];

export const heartbeats = client => [
  ...client.versions.filter(hasHeartbeats).map(version => ({
    title: `STOMP ${version}: heart-beats alone keep an idle connection, in both directions`,
    async play({ connect, topic }) {
      const alice = await connect({ version, heartbeats: HEARTBEATS });
      const inbox = await alice.subscribe(topic);
      equal(alice.connected['heart-beat'], HEARTBEATS.join(), 'heart-beat');
      const frames = alice.written.filter(message => message.size > 1).length;
      await alice.heartbeats.take(4);
      const beats = alice.written.filter(message => message.size === 1).length;
      equal(alice.written.length - beats, frames, 'frames written while idle');
      ok(beats >= 2, `the client wrote only ${beats} heart-beats`);
      await alice.send(topic, 'still here');
      equal((await inbox.next()).body, 'still here');
    },
  })),
  {
    title: 'a client whose heart-beats stop is closed by the gateway',
    async play({ connect }) {
      const alice = await connect({ heartbeats: HEARTBEATS });
      await alice.heartbeats.next();
      alice.muted = true;
      equal((await alice.errors.next()).headers.code, 'heartbeat-timeout', 'code');
      equal((await alice.closes.next()).code, 4408, 'close');
    },
  },
  {
    title: 'a client that listens in silence is kept, since it answers Pings, while others beat',
    own: { STOMPGATE_SERVER__PING_INTERVAL: '1s' },
    async play({ connect, topic }) {
      const [quiet, beating] = [await connect(), await connect({ heartbeats: HEARTBEATS })];
      equal(quiet.connected['heart-beat'].split(',').length, 2, 'numbers in heart-beat');
      const inbox = await quiet.subscribe(topic);
      await beating.heartbeats.take(5);
      await beating.send(topic, 'anyone there?');
      equal((await inbox.next()).body, 'anyone there?');
    },
  },
  {
    title: 'heart-beats come on time to a client that sends none, though Pings go out in between',
    own: { STOMPGATE_SERVER__PING_INTERVAL: '700ms' },
    async play({ connect }) {
      const alice = await connect({ heartbeats: [0, 1_000] });
      equal(alice.connected['heart-beat'], '1000,0', 'heart-beat');
      await alice.heartbeats.take(4);
    },
  },
];

/** Heart-beats came with STOMP 1.1. */
function hasHeartbeats(version) {
  return version !== '1.0';
}
