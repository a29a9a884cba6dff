// Handlers of /app in Node: an HTTP service without a library, called by the gateway for what stompjs sends.

import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { equal, ok } from './conversation/expect.js';
import { talk } from './conversation/talk.js';
import { Gateway } from './gateway.js';
import { LIMIT } from './suite.js';

const SECRET = 'a secret of sixteen letters';

/** Whether a call is the gateway's own (docs/semantics.md, §10). */
function isSigned({ method, url, headers }, body) {
  const [, seconds, found] = /^t=(\d+),v1=([0-9a-f]+)$/.exec(headers['stompgate-signature']) ?? [];
  const told = ['event', 'user', 'session', 'claims', 'destination'].map(name => headers[`stompgate-${name}`] ?? '');
  const lines = [seconds, method, url, ...told, headers['idempotency-key']];
  const signed = createHmac('sha256', SECRET).update(`${lines.join('\n')}\n`).update(body).digest('hex');
  return signed === found;
}

/** Orders: kept, listed, and refused when they ask for nothing. */
function answer({ method, url, headers }, body, orders) {
  const user = decodeURIComponent(headers['stompgate-user']);
  if (headers['stompgate-event'] === 'connect') return [200, { claims: { roles: ['buyer'], tenant: 'Köln' } }];
  if (method === 'GET') return [200, orders];
  const { item, count } = JSON.parse(body);
  if (!(count > 0)) return [422, `${user} asks for no ${item}`];
  orders.push({ item, count, user, claims: JSON.parse(headers['stompgate-claims']) });
  return [200, orders.at(-1)];
}

async function serve() {
  const calls = [];
  const orders = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    calls.push({ ...request.headers, isSigned: isSigned(request, body) });
    const [status, result] = answer(request, body, orders);
    const isText = typeof result === 'string';
    response.writeHead(status, { 'content-type': isText ? 'text/plain' : 'application/json' });
    response.end(isText ? result : JSON.stringify(result));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, calls, url: `http://127.0.0.1:${server.address().port}` };
}

describe('handlers in Node', () => {
  let service, gateway;
  before(async () => {
    service = await serve();
    const http = (path, more = '') => `http = { url = "${service.url}${path}", secret = "${SECRET}"${more} }`;
    gateway = await Gateway.start({
      STOMPGATE_APP__LIFECYCLE: `{ on = ["connect"], ${http('/sessions')} }`,
      STOMPGATE_APP__ROUTE: `[
        { pattern = "/app/orders", ${http('/orders')}, send_to = "/topic/orders/{claim.tenant}" },
        { pattern = "/app/orders/all", ${http('/orders', ', method = "GET"')} },
      ]`.replaceAll('\n', ' '),
    });
  });
  after(async () => {
    await gateway?.stop();
    service?.server.close();
  });

  test('a service is called, believed, refuses, and is asked for what there is', { timeout: LIMIT }, () =>
    talk(stompjs(WebSocket), gateway, async connect => {
      const json = { 'content-type': 'application/json' };
      const bob = await connect();
      const heard = await bob.subscribe('/topic/orders/*');
      const refusals = await bob.subscribe('/user/queue/errors');
      await bob.send('/app/orders', '{"item":"tea","count":2}', json);
      const order = JSON.parse((await heard.next()).body);
      equal([order.item, order.claims], ['tea', { roles: ['buyer'], tenant: ['Köln'] }], 'order');
      const receipt = await bob.send('/app/orders', '{"item":"tea","count":0}', json);
      equal(receipt.headers.status, '422', 'status');
      ok((await refusals.next()).body.endsWith('asks for no tea'), 'the reason');
      const all = await bob.subscribe('/app/orders/all');
      equal(JSON.parse((await all.next()).body).length, 1, 'orders');
      ok(service.calls.length === 4 && service.calls.every(call => call.isSigned), 'every call is signed');
      const traces = service.calls.map(call => call.traceparent);
      ok(traces.every(trace => /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/.test(trace)), 'every call has a trace');
      equal(new Set(traces).size, traces.length, 'traces');
    }),
  );
});
