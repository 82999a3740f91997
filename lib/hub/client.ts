// Requests to the hub. The token goes to the hub alone: redirects, which lead to servers that hold large files, are followed by hand.

import { ConfigError, IoError } from "../errors.ts";
import { throwIfAborted } from "../task.ts";
import type { HubReference } from "./reference.ts";
import { shownReference } from "./reference.ts";
import type { HubSettings } from "./settings.ts";
import { hubToken } from "./settings.ts";

/** The hub cannot be reached, or does not answer as one: what the cache holds may still serve. */
export class HubUnreachable extends IoError {}

export interface Answer {
  readonly response: Response;
  /** Headers of the hub itself, before it sent us elsewhere. */
  readonly hub: Headers;
}

export interface Asked {
  readonly signal?: AbortSignal | undefined;
  /** First byte that is wanted. */
  readonly from?: number;
}

const HOPS = 8;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** A server that has not begun to answer by then is not there. */
const HEAD_MS = 30_000;

export class HubClient {
  readonly settings: HubSettings;
  private readonly token: string | null;

  private constructor(settings: HubSettings, token: string | null) {
    this.settings = settings;
    this.token = token;
  }

  /** @throws ConfigError the token cannot be sent */
  static async open(settings: HubSettings): Promise<HubClient> {
    return new HubClient(settings, await hubToken(settings));
  }

  /** Where a person reads of a model. */
  page(id: string): string {
    return `${this.settings.endpoint}/${id}`;
  }

  /** JSON of the hub's API, and the address of the next page. @throws as `get` */
  async json(path: string, of: HubReference, signal?: AbortSignal): Promise<{ readonly value: unknown; readonly next: string | null }> {
    const { response } = await this.get(path, of, { signal });
    try {
      const value: unknown = await response.json();
      const [, next = null] = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get("link") ?? "") ?? [];
      return { value, next };
    } catch (error) {
      throwIfAborted(signal, `asking for ${shownReference(of)}`);
      throw new HubUnreachable(`${this.settings.endpoint}: expected an answer of the Hugging Face Hub in JSON, found another`, {
        cause: error,
      });
    }
  }

  /**
   * @param path below the endpoint, or an address
   * @throws ConfigError the model or the revision is not there, or not for us · HubUnreachable · IoError another refusal · AbortError
   */
  async get(path: string, of: HubReference, { signal, from }: Asked = {}): Promise<Answer> {
    const { endpoint } = this.settings;
    let url = new URL(path.startsWith("/") ? endpoint + path : path);
    let hub: Headers | null = null;
    for (let hop = 0; hop < HOPS; hop++) {
      const own = url.origin === new URL(endpoint).origin;
      const response = await this.fetch(url, own, of, { signal, ...(from === undefined ? {} : { from }) });
      if (own) hub = merged(hub, response.headers);
      if (REDIRECTS.has(response.status)) {
        await response.body?.cancel();
        url = new URL(response.headers.get("location") ?? "", url);
        continue;
      }
      if (response.ok || response.status === 416) return { response, hub: hub ?? new Headers() };
      await response.body?.cancel();
      throw this.refusal(response, own, of, url);
    }
    throw new HubUnreachable(`${this.page(of.id)}: expected a file, found ${HOPS} redirects, one after the other`);
  }

  private async fetch(url: URL, own: boolean, of: HubReference, { signal, from }: Asked): Promise<Response> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), HEAD_MS);
    try {
      return await fetch(url, {
        redirect: "manual",
        signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
        headers: {
          "user-agent": "esft; node",
          "accept-encoding": "identity", // sizes and ranges are of the file
          ...(own && this.token !== null ? { authorization: `Bearer ${this.token}` } : {}),
          ...(from ? { range: `bytes=${from}-` } : {}),
        },
      });
    } catch (error) {
      throwIfAborted(signal, `asking for ${shownReference(of)}`);
      const cause = (error as { cause?: NodeJS.ErrnoException }).cause;
      const why = late.signal.aborted ? `no answer in ${HEAD_MS / 1000} s` : (cause?.code ?? cause?.message ?? (error as Error).message);
      throw new HubUnreachable(`cannot reach ${url.origin} (${why})`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  /** What an answer other than 2xx means. Addresses of other servers hold signatures: they are told by their host alone. */
  private refusal(response: Response, own: boolean, of: HubReference, url: URL): Error {
    const { status, headers } = response;
    const code = headers.get("x-error-code");
    const place = { where: { key: "model", status } };
    if (!own) return new HubUnreachable(`${of.id}: ${url.host}, which holds its files, answered ${status}`, place);
    const page = this.page(of.id);
    const give = `set HF_TOKEN, or write it to ${this.settings.tokenFile} (${this.settings.endpoint}/settings/tokens makes one)`;
    if (code === "GatedRepo")
      return new ConfigError(
        this.token === null
          ? `${of.id} is a gated model: accept its terms at ${page}, and give a token of that account: ${give}`
          : `${of.id} is a gated model, and the account of the token given has no access to it: ask for it at ${page}, or give another token: ${give}`,
        place,
      );
    if (code === "RevisionNotFound")
      return new ConfigError(`${of.id} has no branch, tag or commit ${of.revision}; see ${page}/tree/main`, place);
    if (status === 401 && this.token !== null && code !== "RepoNotFound")
      return new ConfigError(`${this.settings.endpoint} does not know the token given; make another one: ${give}`, place);
    if (status === 401 || status === 403 || code === "RepoNotFound" || (status === 404 && code === null))
      return new ConfigError(
        `${this.settings.endpoint} has no model ${of.id} that is open to ${this.token === null ? "everybody; a private one needs a token" : "the token given; for another one"}: ${give}`,
        { where: { ...place.where, absent: true } },
      );
    const busy = status === 429 || status >= 500;
    return new (busy ? HubUnreachable : IoError)(`${of.id}: ${url.host} answered ${status}${code === null ? "" : ` (${code})`}`, place);
  }
}

/** The first answer that names a header has it. */
function merged(before: Headers | null, more: Headers): Headers {
  const all = new Headers(more);
  for (const [name, value] of before ?? []) all.set(name, value);
  return all;
}
