// What was decided on the way, for people who look for a fault: DEBUG=esft:* writes it to stderr. Without it nothing is loaded or worded.

import { createRequire } from "node:module";

type Topic = "device" | "files" | "memory" | "resume" | "hub";
type Write = (text: string) => void;

const asked = process.env["DEBUG"] ?? "";
const writers = new Map<Topic, Write | null>();

function open(topic: Topic): Write | null {
  const create = createRequire(import.meta.url)("debug") as typeof import("debug");
  const log = create(`esft:${topic}`);
  return log.enabled ? (text) => log("%s", text) : null;
}

/** @param words made only where somebody reads them */
export function debug(topic: Topic, words: () => string): void {
  if (asked === "") return;
  if (!writers.has(topic)) writers.set(topic, open(topic));
  writers.get(topic)?.(words());
}
