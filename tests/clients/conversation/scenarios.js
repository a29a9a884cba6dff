// Every conversation that a client must be able to have with the gateway, written once for all of them.
//
// A scenario is
//   title
//   play({ client, connect, gateway, topic, queue })    connect(options) makes a Peer, taken away after the scenario
//   needs?          something that not every client can do: a key of the client's `cannot`
//   own?            it wants a gateway to itself, with these settings, to take away or to freeze:
//                   { url, start(), stop(), kill(), freeze(), thaw() }
//   topic, queue    destinations that no other scenario uses

import { equal, failure, ok } from './expect.js';

/** Small enough to watch several, large enough for a busy machine: the gateway tolerates twice this. */
const HEARTBEAT = 1_000;

export const scenarios = client =>
  every(client).map((scenario, index) => ({ ...scenario, topic: `/topic/talk-${index}`, queue: `/queue/talk-${index}` }));

const every = client => [
  ...client.versions.flatMap(version => [connecting(version), ...acknowledging(version)]),
  ...messages,
  ...transactions,
  ...headers(client),
  ...bodies,
  ...refusals,
  ...endings,
  ...time(client),
];

// --- connecting ---

const connecting = version => ({
  title: `STOMP ${version}: connects, and is told who it is`,
  async play({ connect }) {
    const alice = await connect({ version, headers: { login: 'alice', passcode: 'secret' } });
    equal(alice.connected.version, version, 'version');
    equal(alice.socket.protocol, `v${version.replace('.', '')}.stomp`, 'sub-protocol');
    equal(alice.connected['user-name'], 'alice', 'user-name');
    for (const header of ['session', 'server', 'heart-beat']) ok(alice.connected[header], `CONNECTED has no ${header}`);
  },
});

// --- messages ---

const messages = [
  {
    title: 'connects with the highest version that both know',
    async play({ connect, client }) {
      const alice = await connect();
      equal(alice.version, client.versions.at(-1), 'version');
    },
  },
  {
    title: 'a topic: every subscriber gets a copy, its sender too',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inboxes = [await alice.subscribe(topic), await bob.subscribe(topic)];
      await alice.send(topic, '{"greeting":"Grüße, 世界"}', { 'content-type': 'application/json', mood: 'sunny' });
      for (const inbox of inboxes) {
        const message = await inbox.next();
        equal(message.body, '{"greeting":"Grüße, 世界"}', 'body');
        equal(message.headers.destination, topic, 'destination');
        equal(message.headers['content-type'], 'application/json', 'content-type');
        equal(message.headers.mood, 'sunny', 'mood');
        ok(message.headers['message-id'], 'message-id is missing');
      }
    },
  },
  {
    title: 'messages of one sender arrive in the order in which they were sent',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      const numbers = Array.from({ length: 500 }, (_, index) => String(index));
      await Promise.all(numbers.map(number => alice.send(topic, number)));
      equal(texts(await inbox.take(500)), numbers, 'bodies');
    },
  },
  ...[
    { dialect: 'AMQP', separator: '.', one: '*', many: '#' },
    { dialect: 'Ant', separator: '/', one: '*', many: '**' },
    { dialect: 'MQTT', separator: '/', one: '+', many: '#' },
  ].map(({ dialect, separator, one, many }) => ({
    title: `wildcards as ${dialect} spells them: ${one} is one word, ${many} any number`,
    async play({ connect, topic }) {
      const alice = await connect();
      const ones = await alice.subscribe([topic, one, 'price'].join(separator));
      const manies = await alice.subscribe([topic, many].join(separator));
      for (const name of ['eur.price', 'eur.spot.price', 'usd.price', 'usd.volume', 'end.price']) {
        await alice.send(`${topic}.${name}`, name);
      }
      const prices = await ones.take(3);
      equal(texts(prices), ['eur.price', 'usd.price', 'end.price'], one);
      equal(prices[0].headers.destination, [topic, 'eur', 'price'].join(separator), 'destination');
      const all = ['eur.price', 'eur.spot.price', 'usd.price', 'usd.volume', 'end.price'];
      equal(texts(await manies.take(5)), all, many);
    },
  })),
  {
    title: 'after UNSUBSCRIBE nothing more comes, and other subscriptions go on',
    async play({ connect, topic }) {
      const alice = await connect();
      const [left, kept] = [await alice.subscribe(topic), await alice.subscribe(topic)];
      await alice.send(topic, 'first');
      equal((await left.next()).body, 'first');
      left.unsubscribe();
      const again = await alice.subscribe(topic);
      await alice.send(topic, 'second');
      equal(texts(await kept.take(2)), ['first', 'second']);
      equal((await again.next()).body, 'second');
      equal(left.size, 0, 'messages after UNSUBSCRIBE');
    },
  },
  {
    title: 'a queue keeps its messages until someone comes',
    async play({ connect, queue }) {
      const alice = await connect();
      const jobs = Array.from({ length: 20 }, (_, index) => `job ${index}`);
      for (const job of jobs) await alice.send(queue, job);
      await alice.disconnect();
      const bob = await connect();
      equal(texts(await (await bob.subscribe(queue)).take(20)), jobs, 'jobs');
    },
  },
  {
    title: 'a queue gives each message to one of its consumers, and work to all of them',
    async play({ connect, queue }) {
      const consume = async () => {
        const worker = await connect();
        return worker.subscribe(queue, { ack: 'client-individual', 'prefetch-count': '1' });
      };
      const workUntilEnd = async inbox => {
        const done = [];
        for (let job = await inbox.next(); job.body !== 'end'; job = await inbox.next()) {
          done.push(job.body);
          await job.ack();
        }
        return done;
      };
      const consumers = [await consume(), await consume()];
      const alice = await connect();
      const jobs = Array.from({ length: 20 }, (_, index) => `job ${index}`.padStart(6));
      // One end for each: whoever has one does not acknowledge it, and so gets no second.
      for (const job of [...jobs, 'end', 'end']) await alice.send(queue, job);
      const shares = await Promise.all(consumers.map(workUntilEnd));
      equal(shares.flat().sort(), jobs.sort(), 'jobs');
      ok(shares.every(share => share.length > 0), 'one consumer did everything');
    },
  },
  {
    title: 'asks, and is answered on a /temp-queue of its own',
    async play({ connect, queue }) {
      const [alice, bob] = [await connect(), await connect()];
      const questions = await bob.subscribe(queue);
      await alice.send(queue, 'Marco!', { 'reply-to': '/temp-queue/answers', 'correlation-id': 'game:1' });
      const question = await questions.next();
      equal(question.body, 'Marco!');
      ok(question.headers['reply-to'] !== '/temp-queue/answers', 'the reply-to that Bob sees must be an address');
      await bob.send(question.headers['reply-to'], 'Polo!', { 'correlation-id': 'game-1' });
      const answer = await alice.strays.next();
      equal(answer.body, 'Polo!');
      equal(answer.headers.subscription, '/temp-queue/answers', 'subscription');
      equal(answer.headers['correlation-id'], 'game-1', 'correlation-id');
    },
  },
  {
    title: 'every one of many receipts comes back',
    async play({ connect, queue }) {
      const alice = await connect();
      const receipts = await Promise.all(Array.from({ length: 200 }, (_, index) => alice.send(queue, `${index}`)));
      equal(new Set(receipts.map(receipt => receipt.headers['receipt-id'])).size, 200, 'different receipts');
    },
  },
];

// --- acknowledging ---

/** Sends three messages to `queue` and has a consumer with `ack` receive them. */
async function threeReceived({ connect, queue, version }, ack) {
  const consumer = await connect({ version });
  const inbox = await consumer.subscribe(queue, { ack });
  for (const body of ['one', 'two', 'three']) await consumer.send(queue, body);
  return { consumer, inbox, received: await inbox.take(3) };
}

/** What the next consumer of `queue` gets, until the one message that it sends there itself. */
async function leftovers({ connect, queue, version }) {
  const next = await connect({ version });
  const inbox = await next.subscribe(queue);
  await next.send(queue, 'end of queue');
  const left = [];
  for (;;) {
    const { body, headers } = await inbox.next();
    if (body === 'end of queue') return left;
    equal(headers.redelivered, 'true', `redelivered of "${body}"`);
    left.push(body);
  }
}

const acknowledging = version => {
  const prefixed = ({ title, ...scenario }) => ({
    ...scenario,
    title: `STOMP ${version}: ${title}`,
    play: context => scenario.play({ ...context, version }),
  });
  return [
    {
      title: 'ack:auto, nothing to acknowledge and nothing comes twice',
      async play(context) {
        const { consumer } = await threeReceived(context, 'auto');
        await consumer.disconnect();
        equal(await leftovers(context), [], 'left in the queue');
      },
    },
    {
      title: 'ack:client, an ACK settles all before it',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client');
        await received[1].ack();
        await consumer.disconnect();
        equal(await leftovers(context), ['three'], 'left in the queue');
      },
    },
    {
      title: 'ack:client-individual, an ACK settles its own message',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client-individual');
        await received[1].ack();
        await consumer.disconnect();
        equal(await leftovers(context), ['one', 'three'], 'left in the queue');
      },
    },
    // STOMP 1.0 has no NACK.
    version !== '1.0' && {
      title: 'NACK brings the message again, marked as redelivered',
      async play(context) {
        const { inbox, received } = await threeReceived(context, 'client-individual');
        equal(received[0].headers.redelivered === 'true', false, 'redelivered at first');
        await received[0].nack();
        const again = await inbox.next();
        equal([again.body, again.headers.redelivered], ['one', 'true'], 'second delivery');
        await again.ack();
      },
    },
    version !== '1.0' && {
      title: 'NACK with requeue:false gives the message up',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client-individual');
        await received[0].nack({ requeue: 'false' });
        await consumer.disconnect();
        equal(await leftovers(context), ['two', 'three'], 'left in the queue');
      },
    },
    {
      title: 'a consumer that vanishes leaves what it did not acknowledge to the next',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client-individual');
        await received[0].ack();
        consumer.drop();
        await consumer.closes.next();
        equal(await leftovers(context), ['two', 'three'], 'left in the queue');
      },
    },
  ]
    .filter(Boolean)
    .map(prefixed);
};

// --- transactions ---

const transactions = [
  {
    title: 'COMMIT publishes what the transaction holds, and nothing before it',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      const transaction = alice.begin();
      await alice.send(topic, 'one', { transaction: transaction.id });
      await alice.send(topic, 'two', { transaction: transaction.id });
      await alice.send(topic, 'outside');
      equal((await inbox.next()).body, 'outside');
      transaction.commit();
      equal(texts(await inbox.take(2)), ['one', 'two']);
    },
  },
  {
    title: 'ABORT publishes nothing',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      const transaction = alice.begin();
      await alice.send(topic, 'regretted', { transaction: transaction.id });
      transaction.abort();
      await alice.send(topic, 'meant');
      equal((await inbox.next()).body, 'meant');
    },
  },
  {
    title: 'an ACK in a transaction counts at COMMIT, and not after ABORT',
    async play(context) {
      const { consumer, received } = await threeReceived(context, 'client-individual');
      const [kept, dropped] = [consumer.begin(), consumer.begin()];
      await received[0].ack({ transaction: kept.id });
      await received[1].ack({ transaction: dropped.id });
      kept.commit();
      dropped.abort();
      await consumer.disconnect();
      equal(await leftovers(context), ['two', 'three'], 'left in the queue');
    },
  },
  {
    title: 'a transaction that is open when its client vanishes is aborted',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      const transaction = alice.begin();
      await alice.send(topic, 'unfinished', { transaction: transaction.id });
      alice.drop();
      await alice.closes.next();
      await bob.send(topic, 'end');
      equal((await inbox.next()).body, 'end');
    },
  },
];

// --- headers ---

/** Colon, line feed and backslash must be escaped; the rest only must survive UTF-8. */
const AWKWARD = 'Grüße: 世界 🌍\nzweite Zeile \\ Ende';

/** What an application writes whose client leaves escaping to it. */
const escaped = text => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll(':', '\\c');

const headers = client => [
  {
    title: client.cannot['escape headers']
      ? 'header values that the application escapes itself come back as it wrote them'
      : 'header values with a colon, a line feed, a backslash and all of Unicode come back unchanged',
    async play({ connect, topic }) {
      const written = client.cannot['escape headers'] ? escaped(AWKWARD) : AWKWARD;
      const alice = await connect();
      const inbox = await alice.subscribe(topic);
      await alice.send(topic, 'see header', { subject: written });
      equal((await inbox.next()).headers.subject, written, 'subject');
    },
  },
  {
    title: 'a name in the destination with a space, an umlaut and percent signs is one and the same for both sides',
    async play({ connect, topic }) {
      const alice = await connect();
      const inbox = await alice.subscribe(`${topic}.gr%C3%BC%C3%9Fe an alle`);
      await alice.send(`${topic}.grüße%20an alle`, 'hallo');
      equal((await inbox.next()).body, 'hallo');
    },
  },
];

// --- bodies ---

/** Every byte there is, NUL first and in the middle. */
const EVERY_BYTE = Uint8Array.from({ length: 512 }, (_, index) => index % 256);

/** 200 KB of text in which a byte is not a character. */
const LARGE = 'Zeile 世界 ÄÖÜ 0123456789\n'.repeat(7_000);
const LARGE_BYTES = new TextEncoder().encode(LARGE).length;

const bodies = [
  {
    title: 'an empty body',
    async play({ connect, topic }) {
      const alice = await connect();
      const inbox = await alice.subscribe(topic);
      await alice.send(topic, '');
      equal((await inbox.next()).body, '');
    },
  },
  {
    title: 'a binary body of every byte, NULs among them',
    needs: 'send bytes',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      await alice.send(topic, EVERY_BYTE, { 'content-type': 'application/octet-stream' });
      const message = await inbox.next();
      equal([...message.bytes], [...EVERY_BYTE], 'bytes');
      equal(message.headers['content-length'], '512', 'content-length');
    },
  },
  {
    title: 'a body of 200 KB that the client splits over many WebSocket messages',
    async play({ connect, queue }) {
      const alice = await connect({ split: true });
      const inbox = await alice.subscribe(queue);
      const before = alice.written.length;
      await alice.send(queue, LARGE);
      ok(alice.written.length - before > 8, `was written as ${alice.written.length - before} messages`);
      const { body, headers } = await inbox.next();
      ok(body === LARGE, `body of ${LARGE.length} characters came back changed (${body.length})`);
      equal(headers['content-length'], String(LARGE_BYTES), 'content-length');
    },
  },
  {
    title: 'a body of 200 KB in binary WebSocket messages',
    needs: 'send binary WebSocket messages',
    async play({ connect, queue }) {
      const alice = await connect({ binaryFrames: true });
      const inbox = await alice.subscribe(queue);
      await alice.send(queue, LARGE);
      ok(alice.written.every(message => message.binary), 'a message was not binary');
      const { body } = await inbox.next();
      ok(body === LARGE, `body of ${LARGE.length} characters came back changed (${body.length})`);
    },
  },
];

// --- refusals ---

/** A refusal: what the client does, and what the gateway says to it. */
const refusal = (title, { code, message, close = 1008 }, provoke) => ({
  title: `ERROR: ${title}`,
  async play(context) {
    const alice = await context.connect();
    await provoke(alice, context);
    const { headers, body } = await alice.errors.next();
    equal([headers.code, headers.message], [code, message], 'ERROR');
    ok(body.length > headers.message.length, 'the body should explain');
    const end = await alice.closes.next();
    equal([end.code, end.wasClean], [close, true], 'close');
  },
});

const refusals = [
  refusal('SEND to a destination of no kind', { code: 'unknown-destination', message: 'Unknown destination' }, alice =>
    alice.publish('/nowhere/at.all', 'lost', {}),
  ),
  refusal('SUBSCRIBE to it', { code: 'unknown-destination', message: 'Unknown destination' }, alice =>
    alice.listen('/nowhere/at.all', () => {}, {}),
  ),
  refusal('SEND without a destination', { code: 'missing-header', message: 'Missing destination', close: 1002 }, alice =>
    alice.publish('', 'lost', {}),
  ),
  refusal('SEND in a transaction that nobody began', { code: 'unknown-transaction', message: 'Transaction not found' },
    (alice, { topic }) => alice.publish(topic, 'lost', { transaction: 'tx-none' }),
  ),
  refusal('the same subscription id twice',
    { code: 'duplicate-subscription', message: 'Duplicated subscription identifier' },
    async (alice, { topic }) => {
      await alice.subscribe(topic, { id: 'news' });
      alice.listen(topic, () => {}, { id: 'news' });
    },
  ),
  {
    title: 'ERROR names the receipt of the frame that caused it, and what came before is done',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      const good = alice.send(topic, 'good');
      const { frame } = await failure(alice.send('/nowhere/at.all', 'bad'), 'the bad SEND');
      ok(frame.headers['receipt-id'], 'ERROR has no receipt-id');
      ok((await good).headers['receipt-id'] !== frame.headers['receipt-id'], 'ERROR names the receipt of the good SEND');
      equal((await inbox.next()).body, 'good');
    },
  },
  {
    title: 'a session that fails takes no other with it',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      alice.publish('/nowhere/at.all', 'bad', {});
      await alice.closes.next();
      await bob.send(topic, 'still here');
      equal((await inbox.next()).body, 'still here');
    },
  },
];

// --- endings ---

const endings = [
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
      equal(texts(await inbox.take(50)).at(-1), '49', 'last');
    },
  },
  {
    title: 'a gateway that stops says so: 1001',
    own: {},
    async play({ connect, gateway }) {
      const alice = await connect();
      const stopped = gateway.stop();
      equal((await alice.closes.next()).code, 1001, 'close');
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
];

// --- time ---

/** Waits until a client that reconnects has its session and its subscriptions again. */
async function backAgain(peer, topic) {
  await peer.connects.next();
  // Frames are handled in order, so a RECEIPT now says that the SUBSCRIBE before it is done.
  await peer.send(`${topic}.elsewhere`, 'ping');
}

const time = client => [
  ...client.versions.filter(hasHeartbeats).map(version => ({
    title: `STOMP ${version}: heart-beats alone keep an idle connection, in both directions`,
    async play({ connect, topic }) {
      const alice = await connect({ version, heartbeat: HEARTBEAT });
      const inbox = await alice.subscribe(topic);
      equal(alice.connected['heart-beat'], `${HEARTBEAT},${HEARTBEAT}`, 'heart-beat');
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
      const alice = await connect({ heartbeat: HEARTBEAT });
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
      const [quiet, beating] = [await connect(), await connect({ heartbeat: HEARTBEAT })];
      equal(quiet.connected['heart-beat'].split(',').length, 2, 'numbers in heart-beat');
      const inbox = await quiet.subscribe(topic);
      await beating.heartbeats.take(5);
      await beating.send(topic, 'anyone there?');
      equal((await inbox.next()).body, 'anyone there?');
    },
  },
  {
    title: 'a client notices that the gateway froze',
    own: {},
    async play({ connect, gateway }) {
      const alice = await connect({ heartbeat: HEARTBEAT });
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
      const alice = await connect({ heartbeat: HEARTBEAT, reconnect: true });
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

/** Heart-beats and NACK came with STOMP 1.1. */
function hasHeartbeats(version) {
  return version !== '1.0';
}

function texts(received) {
  return received.map(message => message.body);
}
