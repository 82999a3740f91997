// Checks the generated pretraining text: the same seed gives the same rows, train and eval share no content, and the answers
// are right by calculations that do not use the generators' own code. Needs no GPU.
//   npx vitest run test/examples/corpus.test.ts
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { DOMAINS, generate, rowsOf, SPLITS, type Row } from "../../examples/pretrain/domains/index.ts";
import { KINDS } from "../../examples/pretrain/domains/glossary.ts";
import { rowEncoder } from "../../examples/pretrain/encode_row.ts";
import { hash32, Rng } from "../../examples/pretrain/rng.ts";
import { LEXICON } from "../../examples/pretrain/tasks/cipher.ts";
import { TASKS } from "../../examples/pretrain/tasks/index.ts";
import { countTargets, MIN_COUNT, requireTaught, untaught } from "../../examples/pretrain/token_check.ts";

const ALL = [...DOMAINS, ...TASKS];

/** Question and answer of every turn. */
function turns(rows: readonly Row[]): [question: string, answer: string][] {
  const out: [string, string][] = [];
  for (const row of rows) {
    if (!("messages" in row)) continue;
    for (let i = 0; i < row.messages.length; i += 2) {
      expect([row.messages[i]?.role, row.messages[i + 1]?.role]).toEqual(["user", "assistant"]);
      out.push([row.messages[i]?.content ?? "", row.messages[i + 1]?.content ?? ""]);
    }
  }
  return out;
}

const lines = (rows: readonly Row[]): string[] => rows.flatMap((row) => ("text" in row ? row.text.split("\n") : []));
const both = (name: string, count = 400): Row[] => SPLITS.flatMap((split) => generate(name, 7, split === "train" ? count : 80, split));

/** The one match of a pattern's groups, or null. */
const groups = (pattern: RegExp, text: string): string[] | null => pattern.exec(text)?.slice(1) ?? null;

describe("generate", () => {
  it("gives the same rows for the same arguments and others for another seed", () => {
    for (const { name } of ALL) {
      expect(generate(name, 3, 20)).toEqual(generate(name, 3, 20));
      expect(generate(name, 3, 20)).not.toEqual(generate(name, 4, 20));
      expect(generate(name, 3, 30).slice(0, 20)).toEqual(generate(name, 3, 20));
    }
  });

  it("is the same text on every machine", () => {
    const digest = ALL.map(({ name }) => hash32(JSON.stringify(SPLITS.flatMap((split) => generate(name, 1, 25, split)))));
    expect(digest).toMatchSnapshot();
    expect(new Rng("numbers").u32()).toBe(new Rng("numbers").u32());
  });

  it("shows no content in two splits", () => {
    for (const { name } of ALL) {
      // Turns of conversations and lines or sentences of documents, as units of content.
      const units = (rows: readonly Row[]): Set<string> =>
        new Set([...turns(rows).map((turn) => turn.join(" ⇒ ")), ...rows.map((row) => JSON.stringify(row))]);
      const train = units(generate(name, 1, 4000));
      const [validation, test] = [units(generate(name, 2, 80, "validation")), units(generate(name, 2, 80, "test"))];
      const shared = [...validation, ...test].filter((unit) => train.has(unit) || (validation.has(unit) && test.has(unit)));
      // A lookup's later turns repeat ("Value of Ben?" → "blue") over other tables; the tables themselves are disjoint.
      if (name === "lookup") expect(shared.every((unit) => !unit.includes("\n"))).toBe(true);
      else expect(shared).toEqual([]);
    }
  });

  it("holds out of pretraining what tasks of its own domains are tested with", () => {
    for (const [task, domain] of [
      ["sums", "arithmetic"],
      ["code", "programs"],
      ["edits", "strings"],
    ] as const) {
      // prettier-ignore
      const taught = new Set(turns(generate(domain, 1, 6000)).map((turn) => turn.join(" ⇒ ")));
      const own = turns(generate(task, 1, 400));
      expect(own.some((turn) => taught.has(turn.join(" ⇒ "))), "training rows may be known").toBe(true); // prettier-ignore
      for (const split of ["validation", "test"] as const)
        expect(turns(generate(task, 1, 100, split)).filter((turn) => taught.has(turn.join(" ⇒ ")))).toEqual([]);
    }
  });

  it("names the domains it knows and says when held-out rows run out", () => {
    expect(() => generate("poems", 1, 1)).toThrow(/domain must be one of arithmetic, .*booking.*; found "poems"/);
    const two = { name: "two", about: "", make: (rng: Rng) => ({ text: rng.pick(["heads", "tails"]) }) };
    expect(rowsOf(two, 1, 2, "test")).toHaveLength(2);
    expect(() => rowsOf(two, 1, 3, "test")).toThrow(/only about 2 different test rows; found count 3/);
  });
});

describe("answers", () => {
  it("arithmetic: symbols, words and stories add up", () => {
    const rows = both("arithmetic");
    const value = (a: string, op: string, b: string): number =>
      /^(\+|plus)$/.test(op) ? Number(a) + Number(b) : /^(-|minus)$/.test(op) ? Number(a) - Number(b) : Number(a) * Number(b);
    const small = "zero one two three four five six seven eight nine ten eleven twelve".split(" ");
    const check = (text: string, answer: string): boolean => {
      const sum = groups(/(\d+) (\+|-|\*|plus|minus|times) (\d+)/, text);
      if (sum) expect(Number(answer)).toBe(value(...(sum as [string, string, string])));
      const words = groups(/\b([a-z]+) (plus|minus) ([a-z]+)\b/, text);
      if (words)
        expect(small.indexOf(answer)).toBe(
          value(String(small.indexOf(words[0] as string)), words[1] as string, String(small.indexOf(words[2] as string))),
        );
      const story = groups(/has (\d+) (?:\w+)\. .*(gets|gives|holds) (\d+)/, text);
      if (story)
        expect(Number(answer)).toBe(
          value(story[0] as string, { gets: "+", gives: "-", holds: "*" }[story[1] as string] as string, story[2] as string),
        );
      return sum !== null || words !== null || story !== null;
    };
    for (const [question, answer] of turns(rows)) expect(check(question, answer), question).toBe(true);
    for (const line of lines(rows)) expect(check(line, (groups(/(\w+)(?: \w+\.)?$/, line) as string[])[0] as string), line).toBe(true);
  });

  it("strings: every edit does what it says", () => {
    const plain: Record<string, string> = {
      "Sort from low to high": "sort",
      "Sort from high to low": "sort down",
      "Turn the order around": "reverse",
      "Write in capital letters": "uppercase",
      "Write in small letters": "lowercase",
      "Spell the word": "spell",
      "Give the first word": "first",
      "Give the last word": "last",
      "Count the words": "count",
      "Join with dashes": "join",
      "Say each word twice": "double",
    };
    const edits: Record<string, (words: string[]) => string> = {
      sort: (words) => (/\d/.test(words[0] ?? "") ? words.toSorted((a, b) => Number(a) - Number(b)) : words.toSorted()).join(" "),
      "sort down": (words) => words.toSorted((a, b) => Number(b) - Number(a)).join(" "),
      reverse: (words) => words.toReversed().join(" "),
      uppercase: (words) => words.join(" ").toUpperCase(),
      lowercase: (words) => words.join(" ").toLowerCase(),
      spell: (words) => (words[0] ?? "").split("").join("-"),
      first: (words) => words[0] ?? "",
      last: (words) => words.at(-1) ?? "",
      count: (words) => String(words.length),
      join: (words) => words.join("-"),
      double: (words) => words.flatMap((word) => [word, word]).join(" "),
    };
    const rows = both("strings");
    const cases = [...turns(rows).map((turn) => turn.join(" -> ")), ...lines(rows)];
    expect(cases.length).toBeGreaterThan(1000);
    for (const line of cases) {
      const [task, input, output] = groups(/^([^:]+): (.*) -> (.*)$/, line) as [string, string, string];
      expect(edits[plain[task] ?? task]?.(input.split(" ")), line).toBe(output);
    }
  });

  it("dates: weekdays, formats, differences and sums agree with the calendar", () => {
    // Civil-day arithmetic by hand (days from 1 March of year 0), not the Date class the generator uses.
    const dayOf = (iso: string): number => {
      const [y, m, d] = iso.split("-").map(Number) as [number, number, number];
      const [year, month] = m < 3 ? [y - 1, m + 9] : [y, m - 3];
      return 365 * year + Math.floor(year / 4) - Math.floor(year / 100) + Math.floor(year / 400) + Math.floor((153 * month + 2) / 5) + d;
    };
    const months = "January February March April May June July August September October November December".split(" ");
    const week = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(" ");
    const at = <T>(list: readonly T[], i: number): T => list[((i % list.length) + list.length) % list.length] as T;
    const checks: [RegExp, (g: string[], answer: string) => void][] = [
      [
        /^Today is (\w+)\. Which day is it in (\d+)/,
        ([day, n], answer) => expect(answer).toBe(at(week, week.indexOf(day as string) + Number(n))),
      ],
      [
        /^Today is (\w+)\. Which day was it (\d+)/,
        ([day, n], answer) => expect(answer).toBe(at(week, week.indexOf(day as string) - Number(n))),
      ],
      [
        /^Write (\d+) (\w+) (\d+) as/,
        ([d, m, y], answer) =>
          expect(answer).toBe(`${y}-${String(months.indexOf(m as string) + 1).padStart(2, "0")}-${(d as string).padStart(2, "0")}`),
      ],
      [/^Write (\d+)-(\d+)-(\d+) in/, ([y, m, d], answer) => expect(answer).toBe(`${Number(d)} ${months[Number(m) - 1]} ${y}`)],
      [/from (\d+) \w+ to (\d+)/, ([a, b], answer) => expect(Number(answer)).toBe(Number(b) - Number(a))],
      [/^Which date is (\d+) days? after (\S+)\?/, ([n, from], answer) => expect(dayOf(answer)).toBe(dayOf(from as string) + Number(n))],
      [
        /^Which month is (\d+) months? after (\w+)/,
        ([n, m], answer) => expect(answer).toBe(at(months, months.indexOf(m as string) + Number(n))),
      ],
    ];
    for (const [question, answer] of turns(both("dates"))) {
      const check = checks.find(([pattern]) => pattern.test(question));
      if (check === undefined) throw new Error(`no check for ${question}`);
      check[1](groups(check[0], question) as string[], answer);
    }
    expect(dayOf("1970-01-01") - dayOf("1969-12-31")).toBe(1);
  });

  it("units: amounts are equal, comparisons hold, clocks run", () => {
    const inSmallest: Record<string, [kind: string, size: number]> = {
      km: ["length", 1e6],
      m: ["length", 1e3],
      cm: ["length", 10],
      mm: ["length", 1],
      t: ["weight", 1e6],
      kg: ["weight", 1e3],
      g: ["weight", 1],
      l: ["volume", 1e3],
      ml: ["volume", 1],
      euros: ["money", 100],
      cents: ["money", 1],
      weeks: ["time", 604800],
      days: ["time", 86400],
      hours: ["time", 3600],
      minutes: ["time", 60],
      seconds: ["time", 1],
      years: ["age", 12],
      months: ["age", 1],
      dozens: ["eggs", 12],
      eggs: ["eggs", 1],
    };
    const amount = (text: string): { kind: string; size: number } => {
      const [n, unit] = text.split(" ") as [string, string];
      const [kind, size] = inSmallest[unit] ?? ["?", Number.NaN];
      return { kind, size: Number(n) * size };
    };
    for (const [question, answer] of turns(both("units"))) {
      const same = groups(/^(?:Convert|How many \w+ are) (\d+ \w+)/, question);
      const which = groups(/^Which is more, (\d+ \w+) or (\d+ \w+)\?/, question);
      const clock = groups(/^It is (\d+):(\d+)\. What time is it (\d+) minutes later\?/, question)?.map(Number) as
        | [number, number, number]
        | undefined;
      if (same) expect(amount(answer)).toEqual(amount(same[0] as string));
      else if (which) expect(amount(answer).size).toBe(Math.max(...which.map((text) => amount(text).size)));
      else if (clock) {
        const end = (clock[0] * 60 + clock[1] + clock[2]) % 1440;
        expect(answer).toBe(`${(end - (end % 60)) / 60}:${String(end % 60).padStart(2, "0")}`);
      } else throw new Error(`no check for ${question}`);
    }
  });

  it("programs: JavaScript ones print what is written when they run", () => {
    let ran = 0;
    for (const [question, answer] of turns(both("programs"))) {
      const code = question.slice(question.indexOf("\n") + 1);
      if (!code.includes("console.log")) continue;
      const printed: string[] = [];
      runInNewContext(code, { console: { log: (value: unknown) => printed.push(String(value)) } });
      expect(printed.join("\n"), code).toBe(answer);
      ran++;
    }
    expect(ran).toBeGreaterThan(100);
  });

  it("logic: expressions and comparisons evaluate to the answer", () => {
    for (const [question, answer] of turns(both("logic"))) {
      const order = groups(/^(\w+) is \w+ than \w+\. \w+ is (\w+) than (\w+)\. Who is the (\w+)\?/, question);
      if (order) {
        const [highest, more, lowest, asked] = order as [string, string, string, string];
        expect(answer).toBe(asked === more.replace(/r$/, "st") ? highest : lowest);
        continue;
      }
      const text = question.replace(/^(Evaluate|True or false): | = \?$/g, "");
      const parity = groups(/^(\d+) is (even|odd)$/, text);
      const code = parity
        ? `${parity[0]} % 2 === ${parity[1] === "even" ? 0 : 1}`
        : text.replaceAll("and", "&&").replaceAll("or", "||").replaceAll("not", "!");
      expect(String(runInNewContext(code)), question).toBe(answer);
    }
  });

  it("json and booking: answers parse, and every value stands in the sentence", () => {
    for (const [question, answer] of turns(both("json"))) {
      const record = JSON.parse(answer) as Record<string, string | number | boolean>;
      for (const value of Object.values(record)) {
        if (typeof value !== "boolean") expect(question).toContain(String(value));
      }
    }
    for (const [question, answer] of turns(both("booking"))) {
      const { from, to, action } = JSON.parse(answer) as Record<string, string>;
      expect(["buy", "cancel", "ask"]).toContain(action);
      expect(question.indexOf(from as string)).toBeLessThan(question.indexOf(to as string));
      expect(question.includes(from as string)).toBe(true);
    }
  });

  it("lookup: the answer stands in the table at the place asked for", () => {
    for (const row of both("lookup")) {
      if (!("messages" in row)) continue;
      const [table = ""] = (row.messages[0]?.content ?? "").match(/^[^]*\n/) ?? [];
      for (const [question, answer] of turns([row])) {
        const ask = question.split("\n").at(-1) ?? "";
        const [key] = groups(/^Value of (.*)\?$/, ask) ?? [];
        const [value] = groups(/^Which key has (.*)\?$/, ask) ?? [];
        if (key !== undefined) expect(table).toContain(`${key}: ${answer}\n`);
        else if (value !== undefined) expect(table).toContain(`${answer}: ${value}\n`);
        else {
          const cells = table
            .trim()
            .split("\n")
            .map((line) =>
              line
                .split("|")
                .slice(1, -1)
                .map((cell) => cell.trim()),
            );
          const column = (name: string | undefined): number => (cells[0] ?? []).indexOf(name ?? "");
          const [what, who] = groups(/^How many (\w+) has (\w+)\?$/, ask) ?? [];
          const [most] = groups(/^Who has the most (\w+)\?$/, ask) ?? [];
          if (who !== undefined) expect(cells.find(([name]) => name === who)?.[column(what)]).toBe(answer);
          else expect(cells.slice(1).toSorted((a, b) => Number(b[column(most)]) - Number(a[column(most)]))[0]?.[0]).toBe(answer);
        }
      }
    }
  });

  it("sums: they hold", () => {
    for (const [question, answer] of turns(both("sums"))) {
      const [a, b] = question.match(/\d+/g)!.map(Number) as [number, number];
      const op = /\*|times|bags/.test(question) ? "*" : /-|minus|away/.test(question) ? "-" : "+";
      expect(Number(answer), question).toBe(op === "*" ? a * b : op === "-" ? a - b : a + b);
    }
  });

  it("code: JavaScript ones print what is written when they run", () => {
    let ran = 0;
    for (const [question, answer] of turns(both("code"))) {
      const code = question.slice(question.indexOf("\n") + 1);
      if (!code.includes("console.log")) continue;
      const printed: string[] = [];
      runInNewContext(code, { console: { log: (value: unknown) => printed.push(String(value)) } });
      expect(printed.join("\n"), code).toBe(answer);
      ran++;
    }
    expect(ran).toBeGreaterThan(100);
  });

  it("edits: every one does what it says", () => {
    const edits: Record<string, (words: string) => string> = {
      sort: (words) => words.split(" ").toSorted().join(" "),
      reverse: (words) => words.split(" ").toReversed().join(" "),
      double: (words) => words.replace(/\w+/g, "$& $&"),
      uppercase: (words) => words.toUpperCase(),
      join: (words) => words.replaceAll(" ", "-"),
    };
    for (const [question, answer] of turns(both("edits"))) {
      const [edit, words] = groups(/^(\w+): (.*)$/, question) as [string, string];
      expect(edits[edit]!(words), question).toBe(answer);
    }
  });

  it("cipher: no word stands for itself, and the way back gives the sentence", () => {
    const back = new Map([...LEXICON].map(([word, other]) => [other, word]));
    expect(back.size).toBe(LEXICON.size);
    for (const [word, other] of LEXICON) expect(other).not.toBe(word);
    for (const [question, answer] of turns(both("cipher"))) {
      const [subject, one, object, other, verb] = answer.split(" ").map((word) => back.get(word));
      expect(question).toBe(`Say in the other tongue: the ${one} ${subject} ${verb} the ${other} ${object}`);
    }
  });

  it("requests and summary: what is kept stands in the question", () => {
    for (const [question, answer] of turns(both("requests"))) {
      const [label, about, when] = answer.split(" | ") as [string, string, string];
      expect(label).toMatch(/^[a-z]+_[a-z]+$/);
      expect(question).toContain(about);
      expect(when).toBe(/now$|today$|before noon$/.test(question) ? "now" : "later");
    }
    for (const [question, answer] of turns(both("summary"))) {
      const [hero, going, place, taking, object, mood] = groups(/^(\w+): (\w+) to (\w+), (\w+) (\w+), is (\w+)$/, answer) as string[];
      expect(question).toMatch(new RegExp(`${hero} ${going} to the \\w+ ${place}\\.`));
      expect(question).toMatch(new RegExp(`${hero} ${taking} an? \\w+ ${object}\\.`));
      expect(question).toContain(`${hero} is ${mood}.`);
    }
  });

  it("glossary: kinds, quotes, keys and the word that does not fit", () => {
    const kindOf = (word: string): string | undefined => Object.keys(KINDS).find((kind) => KINDS[kind]!.includes(word));
    const words = Object.values(KINDS).flat();
    expect(words.filter((word, i) => words.indexOf(word) < i)).toEqual([]);
    for (const [question, answer] of turns(both("glossary"))) {
      const [odd] = groups(/^Which word does not fit: (.*)\?$/, question) ?? [];
      const [quote] = groups(/^Put in quotes: (.*)$/, question) ?? [];
      const json = groups(/^Write as JSON: (\w+) is (\w+)\.$/, question);
      const [asked] = groups(/^(?:What kind of word is|The word|Kind of) "?(\w+)/, question) ?? [];
      if (odd !== undefined) expect(odd.split(", ").filter((word) => kindOf(word) !== kindOf(answer))).toHaveLength(3);
      else if (quote !== undefined)
        expect(answer).toBe(quote.split(" ").map((word) => `"${word}"`).join(", ")); // prettier-ignore
      else if (json) expect(Object.entries(JSON.parse(answer)).map(([k, v]) => [k, String(v)])).toEqual([json]);
      else if (asked !== undefined) expect(answer.toLowerCase()).toMatch(new RegExp(`^an? ${kindOf(asked)}\\.$`));
      else if (question.startsWith("How many words")) expect(Number(answer)).toBe(question.slice(26).split(" ").length);
      else expect(question).toBe(`Label number ${answer.split(" | ")[1]}: ${answer.split(" | ")[0]!.replace("_", " ")}`);
    }
  });
});

describe("tokens of tasks", () => {
  it("are all taught by pretraining, and one that is not is named with its row", async () => {
    const encoder = await rowEncoder("examples/embedded");
    const counts = new Uint32Array(encoder.vocabSize);
    // A thirtieth of the corpus, scaled: counts of tokens that many rows have.
    for (const { name } of DOMAINS) await countTargets(generate(name, 1, 500), encoder, counts);
    const names = TASKS.map(({ name }) => name);
    expect(await untaught(names, 60, encoder, counts.map((n) => n * 30))).toEqual([]); // prettier-ignore
    await expect(requireTaught(names, 5, encoder, counts.fill(MIN_COUNT - 1))).rejects.toThrow(
      /at least 50 times .* found \d+ below.*\n.*49 times; sums: /,
    );
  });
});
