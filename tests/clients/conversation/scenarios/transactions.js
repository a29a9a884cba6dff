// Transactions: all or nothing, and nothing before COMMIT.

import { bodies, equal } from '../expect.js';
import { leftovers, threeReceived } from './acknowledging.js';

export const transactions = [
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
      equal(bodies(await inbox.take(2)), ['one', 'two']);
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
