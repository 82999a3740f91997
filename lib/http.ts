// What the servers of this package have in common: they listen, do not wait for slow clients for ever, and close when the last bytes are
// out; and the names under which a server on this machine is meant.

import { createAdaptorServer } from "@hono/node-server";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { isIP } from "node:net";
import { ioError } from "./task.ts";

export interface ListenOptions {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly maxConnections: number;
  /** In ms: for the head of a request, for a whole one, for a next one on the same connection. */
  readonly timeouts: { readonly headers: number; readonly request: number; readonly keepAlive: number };
}

export interface Listening {
  /** http://host:port */
  readonly url: string;
  /** Takes no new connection, and resolves when those there are have what was written. */
  close(): Promise<void>;
}

type Fetch = Parameters<typeof createAdaptorServer>[0]["fetch"];

/** @throws IoError the address cannot be listened on */
export async function listen(fetch: Fetch, { host, port, maxConnections, timeouts }: ListenOptions): Promise<Listening> {
  const server = createAdaptorServer({
    fetch,
    overrideGlobalObjects: false,
    serverOptions: {
      headersTimeout: timeouts.headers,
      requestTimeout: timeouts.request,
      keepAliveTimeout: timeouts.keepAlive,
      connectionsCheckingInterval: Math.min(1000, timeouts.headers),
    },
  }) as Server;
  server.maxConnections = maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code === "EADDRINUSE" ? "the address is in use; choose another --port" : error.message;
      reject(ioError(new Error(why, { cause: error }), `cannot listen on ${host}, port ${port}`, { host, port }));
    });
    server.listen(port, host, resolve);
  });
  const address = server.address() as AddressInfo;
  const shown = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return { url: `http://${shown}:${address.port}`, close: () => close(server) };
}

const LAST_BYTES = 2000; // ms for answers that are done to reach their clients

async function close(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // A connection whose answer began before the end is kept alive: it is idle once the client has all of it.
  const idle = setInterval(() => server.closeIdleConnections(), 20);
  const cut = setTimeout(() => server.closeAllConnections(), LAST_BYTES);
  await closed;
  clearInterval(idle);
  clearTimeout(cut);
}

export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));

/** The name in a Host header, without port; empty without one. */
export function hostName(header: string | undefined): string {
  return (header ?? "")
    .replace(/:\d*$/, "")
    .replace(/^\[(.*)\]$/, "$1")
    .toLowerCase();
}

/**
 * Is a server on the loopback interface asked under a local name? A web page elsewhere that had its own name point to 127.0.0.1 (DNS
 * rebinding) would otherwise read answers.
 */
export function isLocalName(header: string | undefined): boolean {
  const name = hostName(header);
  return name === "" || isLoopback(name);
}
