// The routes: who may ask, what is read, what answers.

import { Hono } from "hono";
import type { Context } from "hono";
import type { HttpBindings } from "@hono/node-server";
import { bearer, requireLocalName } from "./auth.ts";
import { readJson } from "./body.ts";
import type { JsonBody } from "./body.ts";
import { chat } from "./chat.ts";
import { completions } from "./completions.ts";
import { ApiError, apiError, shuttingDown } from "./errors.ts";
import { page } from "./page.ts";
import type { Service } from "./service.ts";

export interface AppOptions {
  /** Null: everybody may ask who reaches the server. */
  readonly token: string | null;
  /** Answer under local names alone. */
  readonly localOnly: boolean;
  /** Most bytes of a body. */
  readonly maxBody: number;
  /** Whether nothing new is begun any more. */
  readonly draining: () => boolean;
  /** Ms that a client may take to read what has been written to it. */
  readonly stall: number;
}

type Env = { Bindings: Partial<HttpBindings> };

/** Paths and their methods; /v1/models/NAME beside them. */
const PATHS: Readonly<Record<string, string>> = {
  "/": "GET",
  "/health": "GET",
  "/metrics": "GET",
  "/v1/models": "GET",
  "/v1/chat/completions": "POST",
  "/v1/completions": "POST",
};
const ONE_MODEL = "/v1/models/";
const known = (path: string): string => (path in PATHS ? path : path.startsWith(ONE_MODEL) ? `${ONE_MODEL}:name` : "other");

export function makeApp(service: Service, options: AppOptions): Hono<Env> {
  const app = new Hono<Env>();
  const { draining } = options;
  const authorize = options.token === null ? () => undefined : bearer(options.token);

  app.use(async (c, next) => {
    await next();
    service.metrics.request(known(c.req.path), c.res.status);
    // From here on the client alone decides how long it takes.
    const outgoing = c.env?.outgoing;
    outgoing?.setTimeout(options.stall, () => outgoing.destroy());
    if (draining()) c.res.headers.set("Connection", "close");
  });
  app.use(async (c, next) => {
    if (options.localOnly) requireLocalName(c.req.header("host"));
    if (c.req.path.startsWith("/v1/") || c.req.path === "/metrics") authorize(c.req.header("authorization"));
    if (c.req.method === "POST" && draining()) throw shuttingDown();
    await next();
  });

  app.get("/", (c) => c.html(page.html, 200, { "Content-Security-Policy": page.policy, "X-Content-Type-Options": "nosniff" }));
  app.get("/health", (c) => (draining() ? c.json({ status: "draining" }, 503) : c.json({ status: "ok", ...service.models.load })));
  app.get("/metrics", async (c) => c.body(await service.metrics.text(), 200, { "Content-Type": service.metrics.contentType }));

  const [base] = service.models.names;
  const model = (id: string) => ({
    id,
    object: "model",
    created: service.started,
    owned_by: "esft",
    ...(id === base ? {} : { parent: base }),
    max_model_len: service.models.maxPositions,
  });
  app.get("/v1/models", (c) => c.json({ object: "list", data: service.models.names.map(model) }));
  app.get(`${ONE_MODEL}*`, (c) => {
    const name = decoded(c.req.path.slice(ONE_MODEL.length));
    service.requireModel(name);
    return c.json(model(name));
  });

  type Endpoint = (service: Service, body: JsonBody, signal: AbortSignal) => Promise<Response>;
  const post = (answer: Endpoint) => async (c: Context<Env>) => {
    const body = await readJson(c.req.raw, options.maxBody);
    return answer(service, body, c.req.raw.signal);
  };
  app.post("/v1/chat/completions", post(chat));
  app.post("/v1/completions", post(completions));

  app.notFound((c) => {
    const { method, path } = c.req;
    const allowed = PATHS[path];
    const error =
      allowed === undefined
        ? new ApiError(404, `there is nothing at ${method} ${path.slice(0, 200)}; there are ${Object.keys(PATHS).join(", ")}`, {
            code: "unknown_url",
          })
        : new ApiError(405, `${path} takes ${allowed}, found ${method}`, { code: "method_not_allowed", headers: { Allow: allowed } });
    return error.response();
  });
  app.onError((error) => {
    service.failed(error);
    return apiError(error).response();
  });
  return app;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
