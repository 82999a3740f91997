// Models of the Hugging Face Hub by name: org/name, or org/name@revision with a branch, a tag or a commit.

import { ConfigError } from "../errors.ts";

export interface HubReference {
  /** org/name */
  readonly id: string;
  /** As it was asked for; "main" where nothing was. */
  readonly revision: string;
}

export const MAIN = "main";
export const FORM = "org/name or org/name@revision";

// The hub's own rules: letters, digits and - _ . between them, no two of - and . in a row.
const NAME = /^[A-Za-z0-9](?:[\w.-]*\w)?$/;
const REVISION = /^\w[\w.+/-]*$/;
const LONGEST = 96;

/** @returns null: the word has not the form of a model on the hub; paths that begin with "." or "/" never have it */
export function hubReference(word: string): HubReference | null {
  const at = word.indexOf("@");
  const [id, revision] = at < 0 ? [word, MAIN] : [word.slice(0, at), word.slice(at + 1)];
  const parts = id.split("/");
  if (parts.length !== 2 || id.length > LONGEST || /--|\.\./.test(id) || !parts.every((part) => NAME.test(part))) return null;
  return isRevision(revision) ? { id, revision } : null;
}

const isRevision = (text: string): boolean => REVISION.test(text) && !/\.\.|\/\/|\/$|\.lock$/.test(text) && text.length <= 200;

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** As a user writes it. */
export const shownReference = ({ id, revision }: HubReference): string => (revision === MAIN ? id : `${id}@${revision}`);

/** @throws ConfigError the word has another form */
export function requireReference(word: string): HubReference {
  const found = hubReference(word);
  if (found === null)
    throw new ConfigError(`expected a model on the Hugging Face Hub, ${FORM}, found ${JSON.stringify(word)}`, { where: { key: "model" } });
  return found;
}
