// Serves the pages of browser/ and the modules that they load, over HTTP on a port of loopback.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = new URL('..', import.meta.url);
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript' };

/** A server that listens; its port is `address().port`. */
export async function serve() {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const content = await readFile(fileURLToPath(new URL(`.${pathname}`, ROOT))).catch(() => undefined);
    response.writeHead(content ? 200 : 404, { 'content-type': TYPES[extname(pathname)] ?? 'text/plain' });
    response.end(content ?? `${pathname} is not here`);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}
