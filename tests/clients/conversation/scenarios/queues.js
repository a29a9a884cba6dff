// Work and questions for one among several.

import { bodies, equal, ok } from '../expect.js';

export const queues = [
  {
    title: 'a queue keeps its messages until someone comes',
    async play({ connect, queue }) {
      const alice = await connect();
      const jobs = Array.from({ length: 20 }, (_, index) => `job ${index}`);
      for (const job of jobs) await alice.send(queue, job);
      await alice.disconnect();
      const bob = await connect();
      equal(bodies(await (await bob.subscribe(queue)).take(20)), jobs, 'jobs');
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
];
