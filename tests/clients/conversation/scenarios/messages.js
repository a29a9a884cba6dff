// Connecting, publishing and subscribing.

import { bodies, equal, ok } from '../expect.js';

export const connecting = version => ({
  title: `STOMP ${version}: connects, and is told who it is`,
  async play({ connect }) {
    const alice = await connect({ version, headers: { login: 'alice', passcode: 'secret' } });
    equal(alice.connected.version, version, 'version');
    equal(alice.socket.protocol, `v${version.replace('.', '')}.stomp`, 'sub-protocol');
    equal(alice.connected['user-name'], 'alice', 'user-name');
    for (const header of ['session', 'server', 'heart-beat']) ok(alice.connected[header], `CONNECTED has no ${header}`);
  },
});

export const messages = [
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
      equal(bodies(await inbox.take(500)), numbers, 'bodies');
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
      equal(bodies(prices), ['eur.price', 'usd.price', 'end.price'], one);
      equal(prices[0].headers.destination, [topic, 'eur', 'price'].join(separator), 'destination');
      const all = ['eur.price', 'eur.spot.price', 'usd.price', 'usd.volume', 'end.price'];
      equal(bodies(await manies.take(5)), all, many);
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
      equal(bodies(await kept.take(2)), ['first', 'second']);
      equal((await again.next()).body, 'second');
      equal(left.size, 0, 'messages after UNSUBSCRIBE');
    },
  },
  {
    title: 'a durable subscription brings what came while its client was away',
    async play({ connect, topic }) {
      const bobComes = async () => {
        const bob = await connect({ headers: { login: 'bob' } });
        return { bob, inbox: await bob.subscribe(topic, { id: 'bobs-news', durable: 'true' }) };
      };
      const before = await bobComes();
      await before.bob.disconnect();
      const alice = await connect();
      await alice.send(topic, 'while you were out');
      const { inbox } = await bobComes();
      equal((await inbox.next()).body, 'while you were out');
    },
  },
  {
    title: 'a retained message greets whoever subscribes later',
    async play({ connect, topic }) {
      const alice = await connect();
      for (const price of ['99', '101']) await alice.send(topic, price, { retain: 'true' });
      const bob = await connect();
      const inbox = await bob.subscribe(topic);
      equal((await inbox.next()).body, '101');
      await alice.send(topic, '102');
      equal((await inbox.next()).body, '102');
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
