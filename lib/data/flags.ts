// Which messages are trained on: the per-message flags of four dialects.
//   ESFT `mask: 1` = not trained · `train: true|false` · OpenAI `weight: 0|1` · ms-swift `loss: true|false`

import { DataError } from "../errors.ts";
import { ExactNumber } from "../text/python_json.ts";
import type { Message } from "../text/template.ts";

export const FLAGS = ["mask", "train", "weight", "loss"] as const;
type Flag = (typeof FLAGS)[number];

// A row may hold texts of any length; what is said of it may not.
const shorten = (text: string, most: number): string => (text.length > most ? `${text.slice(0, most)}…` : text);

/** A refusal with the code of the data rules in `where.rule` and the path inside the row in `where.key`. */
export function refuse(rule: string, path: string, reason: string, cause?: unknown): never {
  const [key, says] = [shorten(path, 200), shorten(reason, 1000)];
  throw new DataError(key === "" ? says : `${key}: ${says}`, { where: { rule, key, says }, cause });
}

// true = trained, false = not trained, null = not a legal value
function meaning(flag: Flag, value: unknown): boolean | null {
  if (flag === "train" || flag === "loss") return typeof value === "boolean" ? value : null;
  if (flag === "mask") return value === 0 || value === false ? true : value === 1 || value === true ? false : null;
  const number = value instanceof ExactNumber ? Number(value.text) : value;
  return number === 1 ? true : number === 0 ? false : null;
}

/** Does the message carry loss? Without a flag assistant messages do, others never. `key` is its path, for errors. */
export function isTrained(message: Message, key: string): boolean {
  const said: { flag: Flag; trained: boolean }[] = [];
  for (const flag of FLAGS) {
    if (!Object.hasOwn(message, flag)) continue;
    const trained = meaning(flag, message[flag]);
    if (trained === null) {
      const legal = flag === "train" || flag === "loss" ? "true or false" : "0 or 1";
      refuse("flag", `${key}.${flag}`, `${flag} must be ${legal}, not ${JSON.stringify(message[flag])}`);
    }
    said.push({ flag, trained: trained as boolean });
  }
  if (message.role !== "assistant") {
    const wrong = said.find((s) => s.trained && s.flag !== "mask");
    if (wrong !== undefined) refuse("flag", `${key}.${wrong.flag}`, "only assistant messages can be trained on");
    return false;
  }
  if (said.some((s) => s.trained !== said[0]?.trained)) refuse("flags-conflict", key, `${said.map((s) => s.flag).join(" and ")} disagree`);
  return said[0]?.trained ?? true;
}

/** The message as the template may see it. */
export function withoutFlags(message: Message): Message {
  return Object.fromEntries(Object.entries(message).filter(([key]) => !FLAGS.some((f) => f === key))) as unknown as Message;
}
