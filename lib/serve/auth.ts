// Who may ask: a bearer token, compared in constant time, and without one the names under which a local server is meant.

import { createHash, timingSafeEqual } from "node:crypto";
import { hostName, isLocalName } from "../http.ts";
import { ApiError } from "./errors.ts";

const digest = (text: string): Buffer => createHash("sha256").update(text).digest();

/** Throws unless the header names the token. Digests have one length, so the time says nothing, not even how long the token is. */
export function bearer(token: string): (authorization: string | undefined) => void {
  const wanted = digest(token);
  return (authorization) => {
    const [, given] = /^Bearer +(\S+) *$/i.exec(authorization ?? "") ?? [];
    if (timingSafeEqual(digest(given ?? ""), wanted) && given !== undefined) return;
    const what = given === undefined ? "no bearer token was given" : "the bearer token is not the one of this server";
    throw new ApiError(401, `${what}; send it as Authorization: Bearer TOKEN`, {
      code: "invalid_api_key",
      headers: { "WWW-Authenticate": "Bearer" },
    });
  };
}

/** Without a token, a server on the loopback interface answers only under local names. */
export function requireLocalName(host: string | undefined): void {
  if (isLocalName(host)) return;
  throw new ApiError(
    403,
    `this server answers as localhost or 127.0.0.1, not as ${hostName(host)}; start it with --token to use other names`,
    {
      code: "wrong_host",
    },
  );
}
