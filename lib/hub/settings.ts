// What the environment says of the hub, by the names that Python's huggingface_hub reads: which server, where the cache lies, whether
// anything may be asked for, and the token.

import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { ConfigError } from "../errors.ts";

export interface HubSettings {
  /** Without a slash at the end. */
  readonly endpoint: string;
  /** The folder of models--org--name folders. */
  readonly cache: string;
  /** Nothing is asked for. */
  readonly offline: boolean;
  /** Where a token may lie. */
  readonly tokenFile: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** @throws ConfigError HF_ENDPOINT is no address */
export function hubSettings(env: Environment = process.env): HubSettings {
  const home = path(env["HF_HOME"]) ?? join(path(env["XDG_CACHE_HOME"]) ?? join(homedir(), ".cache"), "huggingface");
  return {
    endpoint: endpointOf(env["HF_ENDPOINT"] || "https://huggingface.co"),
    cache: path(env["HF_HUB_CACHE"]) ?? path(env["HUGGINGFACE_HUB_CACHE"]) ?? join(home, "hub"),
    offline: isTrue(env["HF_HUB_OFFLINE"]) || isTrue(env["TRANSFORMERS_OFFLINE"]),
    tokenFile: path(env["HF_TOKEN_PATH"]) ?? join(home, "token"),
  };
}

/** The token to show to the hub; it is in no message of this package. @throws ConfigError it cannot be sent */
export async function hubToken({ tokenFile }: HubSettings, env: Environment = process.env): Promise<string | null> {
  const given = env["HF_TOKEN"] || env["HUGGING_FACE_HUB_TOKEN"];
  const [text, from] = given ? [given, "HF_TOKEN"] : [await readFile(tokenFile, "utf8").catch(() => ""), tokenFile];
  const token = text.trim();
  if (!/^[\x21-\x7e]*$/.test(token))
    throw new ConfigError(`${from}: expected a token of the Hugging Face Hub (hf_…), found other characters than such a token has`, {
      where: { key: "HF_TOKEN" },
    });
  return token === "" ? null : token;
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol))
    throw new ConfigError(`HF_ENDPOINT: expected an address as https://huggingface.co, found ${JSON.stringify(text)}`, {
      where: { key: "HF_ENDPOINT" },
    });
  return `${url.origin}${url.pathname}`.replace(/\/+$/, "");
}

const isTrue = (text: string | undefined): boolean => /^(1|on|yes|true)$/i.test(text ?? "");
const path = (text: string | undefined): string | undefined => (text ? resolve(text.replace(/^~(?=\/|$)/, homedir())) : undefined);
