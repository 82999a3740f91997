// The server: it listens, does not wait for slow clients for ever, and drains before it ends.

import { makeApp } from "./app.ts";
import { shuttingDown } from "./errors.ts";
import type { Models } from "./models.ts";
import { Service } from "./service.ts";
import { ConfigError } from "../errors.ts";
import { isLoopback, listen } from "../http.ts";

export interface ServeOptions {
  /** Default 127.0.0.1: this machine alone. */
  readonly host?: string | undefined;
  /** 0: any that is free. */
  readonly port?: number | undefined;
  /** What clients must send as a bearer token. */
  readonly token?: string | undefined;
  /** Most answers on their way or waiting; default 256. */
  readonly maxQueue?: number | undefined;
  /** Most bytes of a request's body; default 4 MiB. */
  readonly maxBody?: number | undefined;
  /** Errors that are not the client's. */
  readonly onError?: (error: unknown) => void;
  readonly timeouts?: Partial<Timeouts>;
}

/** In ms. */
export interface Timeouts {
  /** For the head of a request. */
  readonly headers: number;
  /** For a whole request. */
  readonly request: number;
  /** For a next request on the same connection. */
  readonly keepAlive: number;
  /** For the client to read on. */
  readonly stall: number;
  /** Between signs of life on a stream; well below `stall`. */
  readonly alive: number;
}
const TIMEOUTS: Timeouts = { headers: 15_000, request: 60_000, keepAlive: 10_000, stall: 60_000, alive: 15_000 };

export interface RunningServer {
  /** http://host:port */
  readonly url: string;
  /** Answers on their way or waiting. */
  readonly size: number;
  /** Begins nothing new (503), lets what is on its way finish for so long, cuts the rest, and closes. */
  drain(ms: number): Promise<void>;
}

/** @throws ConfigError a token that no client could send · IoError the address cannot be listened on */
export async function serve(models: Models, options: ServeOptions = {}): Promise<RunningServer> {
  const { host = "127.0.0.1", port = 8000, token, maxQueue = 256, maxBody = 4 << 20, onError = () => undefined } = options;
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token))
    throw new ConfigError("the token must have visible ASCII characters and no space", { where: { key: "token" } });
  const timeouts = { ...TIMEOUTS, ...options.timeouts };
  let draining = false;
  const service = new Service(models, { maxQueue, aliveEvery: timeouts.alive, onError });
  const app = makeApp(service, {
    token: token ?? null,
    localOnly: token === undefined && isLoopback(host),
    maxBody,
    draining: () => draining,
    stall: timeouts.stall,
  });
  const server = await listen(app.fetch, { host, port, maxConnections: 4 * maxQueue + 64, timeouts });
  return {
    url: server.url,
    get size() {
      return service.queue.size;
    },
    drain: async (ms) => {
      draining = true;
      await service.queue.drain(ms, shuttingDown);
      await server.close();
    },
  };
}
