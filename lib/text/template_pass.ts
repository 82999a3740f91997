// Where @huggingface/jinja does not do what Python does: a chat template's syntax tree is rewritten so that these places call
// functions of ours, on the library's own runtime values, and the library's interpreter runs the rest.
//
//   x.strip(chars), x.items() …   methods: strip takes its argument, a dict's methods win over its keys
//   a + b, a ~ b, a == b          no text + object, text as Python prints it, lists and dicts by value
//   x|tojson, x|string, x|trim    JSON as json.dumps writes it, str(), Python's white space, |length in characters, |join by str()
//   x.y, x[y]                     refused where x is undefined
//   {{ x }}                       True, None, 1.0, ['a'], as str() has it
//   {% for %}                     a name set in one iteration is not seen by the next
//
// What this cannot make right is refused: chained comparisons, and text of an iteration that a later break or continue would drop.

import { Environment, parse, tokenize } from "@huggingface/jinja";
import type { DumpOptions, JsonValue } from "./python_json.ts";
import { dumpJson, ExactNumber } from "./python_json.ts";
import { pythonFloatRepr, pythonStringRepr, pythonStrip } from "./python_text.ts";

/** A node of the library's syntax tree. */
interface Node {
  readonly type: string;
  [key: string]: unknown;
}
export interface Program {
  body: Node[];
}

/** A value of the library's interpreter. */
export interface Value {
  readonly type: string;
  readonly value: unknown;
  readonly builtins?: ReadonlyMap<string, Value>;
}
type Function = (args: readonly Value[], scope: { readonly variables: Map<string, Value> }) => Value;

/** Why a template cannot render what it was given. */
export class TemplateFault extends Error {}
const fail = (message: string): never => {
  throw new TemplateFault(message);
};

// ── Bounds ──

// A template is a program: loops within loops, text doubled forty times, or lists that hold one list twice would take hours or all
// memory. The longest published template spends some thousand steps on a message.
const MAX_STEPS = 2_000_000;
const MAX_TEXT = 2 ** 24; // UTF-16 units
const MAX_LIST = 2 ** 20;

let steps = 0; // of the rendering in progress: it is synchronous

/** One step of a rendering: a node evaluated, a value printed, compared or converted. */
export function step(): void {
  if (++steps > MAX_STEPS) fail(`it takes more than ${MAX_STEPS} steps; do its loops multiply?`);
}

function bounded(length: number, most: number): void {
  if (length > most) fail(`it makes ${most === MAX_TEXT ? "a text" : "a list"} longer than ${most}`);
}

// ── Values ──

/** The library's class for a JavaScript value. */
const classOf = (sample: unknown): new (value: unknown) => Value =>
  (new Environment().set("x", sample) as Value).constructor as new (value: unknown) => Value;
const [Integer, Float, Text, Bool, Null, List, Dict] = [1, 0.5, "", true, null, [], {}].map(classOf) as [
  ReturnType<typeof classOf>,
  ReturnType<typeof classOf>,
  ReturnType<typeof classOf>,
  ReturnType<typeof classOf>,
  ReturnType<typeof classOf>,
  ReturnType<typeof classOf>,
  ReturnType<typeof classOf>,
];
const KIND: Readonly<Record<string, string>> = { StringValue: "text", ObjectValue: "an object", ArrayValue: "a list", NullValue: "null", UndefinedValue: "nothing" }; // prettier-ignore
const kindOf = (x: Value | undefined): string =>
  KIND[x?.type ?? "UndefinedValue"] ?? x?.type.replace("Value", "").toLowerCase() ?? "nothing";

/** JSON as values of the interpreter: numbers keep their form, keys their order. */
export function fromJson(x: JsonValue): Value {
  if (x === null || x === undefined) return new Null(null);
  if (typeof x === "string") return new Text(x);
  if (typeof x === "boolean") return new Bool(x);
  if (typeof x === "number") return new (Number.isInteger(x) ? Integer : Float)(x);
  if (x instanceof ExactNumber) return x.isFloat ? new Float(Number(x.text)) : new Integer(BigInt(x.text));
  if (Array.isArray(x)) return new List(x.map(fromJson));
  return new Dict(new Map((x instanceof Map ? [...x] : Object.entries(x)).map(([key, value]) => [key, fromJson(value)])));
}

function toJson(x: Value): JsonValue {
  step();
  const { type, value } = x;
  if (type === "ArrayValue" || type === "TupleValue") return (value as Value[]).map(toJson);
  if (type === "ObjectValue" || type === "NamespaceValue")
    return new Map([...(value as Map<string, Value>)].map(([k, v]) => [k, toJson(v)]));
  if (type === "FloatValue") return new ExactNumber(pythonFloatRepr(value as number));
  if (typeof value === "bigint") return new ExactNumber(String(value));
  if (value === undefined || typeof value === "function") return fail(`${kindOf(x)} is not JSON`);
  return value as JsonValue;
}

/** str(x), or repr(x) inside a list or dict. */
function printed(x: Value, inside = false): string {
  step();
  const { type, value } = x;
  if (type === "ArrayValue") return `[${(value as Value[]).map((v) => printed(v, true)).join(", ")}]`;
  if (type === "ObjectValue")
    return `{${[...(value as Map<string, Value>)].map(([k, v]) => `${pythonStringRepr(k)}: ${printed(v, true)}`).join(", ")}}`;
  if (type === "StringValue" && inside) return pythonStringRepr(value as string);
  if (type === "NullValue") return "None";
  if (type === "UndefinedValue") return "";
  if (x.type === "BooleanValue") return x.value === true ? "True" : "False";
  if (x.type === "FloatValue") return pythonFloatRepr(x.value as number);
  if (x.type === "StringValue" || x.type === "IntegerValue") return String(x.value);
  return fail(`${kindOf(x)} cannot be printed`);
}

function equal(a: Value, b: Value): boolean {
  step();
  const [x, y] = [a.value, b.value];
  if (Array.isArray(x) && Array.isArray(y)) return x.length === y.length && x.every((v: Value, i) => equal(v, y[i] as Value));
  if (x instanceof Map && y instanceof Map)
    return x.size === y.size && [...(x as Map<string, Value>)].every(([k, v]) => y.has(k) && equal(v, y.get(k) as Value));
  const number = (v: unknown): unknown => (typeof v === "boolean" || typeof v === "bigint" ? Number(v) : v);
  return number(x) === number(y);
}

const joined = (a: string, b: string): Value => {
  bounded(a.length + b.length, MAX_TEXT);
  return new Text(a + b);
};

function add(a: Value, b: Value): Value {
  if (a.type === "StringValue" && b.type === "StringValue") return joined(a.value as string, b.value as string);
  if (a.type === "ArrayValue" && b.type === "ArrayValue") {
    bounded((a.value as Value[]).length + (b.value as Value[]).length, MAX_LIST);
    return new List([...(a.value as Value[]), ...(b.value as Value[])]);
  }
  const numeric = (v: Value): boolean => v.type === "IntegerValue" || v.type === "FloatValue";
  if (!numeric(a) || !numeric(b)) return fail(`cannot add ${kindOf(b)} to ${kindOf(a)}`);
  if (a.type === "FloatValue" || b.type === "FloatValue") return new Float(Number(a.value) + Number(b.value));
  const sum = BigInt(a.value as number | bigint) + BigInt(b.value as number | bigint);
  return new Integer(Number.isSafeInteger(Number(sum)) ? Number(sum) : sum);
}

const SIDES: Readonly<Record<string, "both" | "left" | "right">> = { strip: "both", lstrip: "left", rstrip: "right" };

function strip(x: Value | undefined, side: "both" | "left" | "right", chars?: Value): Value {
  if (x?.type !== "StringValue") return fail(`only text can be stripped, found ${kindOf(x)}`);
  if (chars && chars.type !== "StringValue" && chars.type !== "NullValue") return fail(`strip takes text, found ${kindOf(chars)}`);
  return new Text(pythonStrip(x.value as string, side, chars?.type === "StringValue" ? (chars.value as string) : undefined));
}

/** str.format with plain fields. */
function format(text: string, args: readonly Value[]): string {
  let next = 0;
  return text.replace(/\{\{|\}\}|\{[^}]*\}?|\}/g, (field) => {
    if (field === "{{" || field === "}}") return field[0]!;
    const arg = args[next++];
    return field === "{}" && arg && arg.type !== "KeywordArgumentsValue" ? printed(arg) : fail(`format field ${field} is not supported`);
  });
}

const method: Function = ([object, name, ...args], scope) => {
  const called = String(name?.value);
  const side = SIDES[called];
  if (side && object?.type === "StringValue") return strip(object, side, args[0]);
  if (called === "format" && object?.type === "StringValue") return new Text(format(object.value as string, args));
  const own = object?.value instanceof Map ? (object.value as Map<string, Value>).get(called) : undefined;
  const f = object?.builtins?.get(called) ?? own;
  if (typeof f?.value !== "function") return fail(`${kindOf(object)} has no method "${called}"`);
  return (f.value as Function)(args, scope);
};

/** What stands between the values of a JSON text stands there often. */
function short(length: number, name: string): number {
  return length <= 64 ? length : fail(`tojson takes ${name} of at most 64 characters, found ${length}`);
}

const tojson: Function = ([x, ...given]) => {
  const named = given.at(-1)?.type === "KeywordArgumentsValue" ? (given.at(-1)?.value as Map<string, Value>) : new Map<string, Value>();
  const option = (key: string, at: number): Value | undefined => {
    const v = named.get(key) ?? (given[at]?.type === "KeywordArgumentsValue" ? undefined : given[at]);
    return v?.type === "NullValue" ? undefined : v;
  };
  for (const key of named.keys())
    if (!["indent", "ensure_ascii", "separators", "sort_keys"].includes(key)) fail(`tojson does not take "${key}"`);
  const [indent, separators] = [option("indent", 0), option("separators", 2)];
  const options: DumpOptions = {
    ensureAscii: option("ensure_ascii", 3)?.value === true,
    indent: indent ? " ".repeat(short(Number(indent.value), "indent")) : null,
    separators: separators ? ((separators.value as Value[]).map((v) => String(v.value)) as [string, string]) : null,
  };
  for (const separator of options.separators ?? []) short(separator.length, "separators");
  if (option("sort_keys", 1)?.value === true) fail("tojson with sort_keys is not supported");
  return new Text(dumpJson(toJson(x as Value), options));
};

const FUNCTIONS: Readonly<Record<string, Function>> = {
  method,
  tojson,
  "+": ([a, b]) => add(a as Value, b as Value),
  "~": ([a, b]) => joined(printed(a as Value), printed(b as Value)),
  "==": ([a, b]) => new Bool(equal(a as Value, b as Value)),
  "!=": ([a, b]) => new Bool(!equal(a as Value, b as Value)),
  some: ([x]) => (x?.type === "UndefinedValue" ? fail("an attribute or item of something undefined is asked for") : (x as Value)),
  string: ([x]) => new Text(printed(x as Value)),
  length: ([x]) => {
    const { value } = x as Value;
    if (typeof value === "string" || Array.isArray(value)) return new Integer(Array.from(value).length);
    return value instanceof Map ? new Integer(value.size) : fail(`${kindOf(x)} has no length`);
  },
  join: ([x, between]) => {
    const items = typeof x?.value === "string" ? Array.from(x.value, (c) => new Text(c)) : x?.value;
    if (!Array.isArray(items)) return fail(`${kindOf(x)} cannot be joined`);
    if (between?.type === "KeywordArgumentsValue") return fail("join takes no name");
    const texts = (items as Value[]).map((v) => printed(v));
    const own = between === undefined ? "" : printed(between);
    bounded(
      texts.reduce((n, t) => n + t.length + own.length, 0),
      MAX_TEXT,
    );
    return new Text(texts.join(own));
  },
  trim: ([x, chars]) => strip(new Text(printed(x as Value)), "both", chars),
  fresh: (names, { variables }) => {
    for (const { value } of names) variables.delete(value as string);
    return new Null(null);
  },
};

/** Name under which the interpreter finds a function of ours: none that a template can spell. */
const hidden = (name: string): string => `esft ${name}`;

/** Puts our functions where rewritten templates look for them, for one rendering. `onNone`: null is printed. */
export function defineFunctions(environment: Environment, onNone: () => void): void {
  steps = 0;
  const sample = new Environment().set("f", () => null) as Value;
  const make = sample.constructor as new (f: Function) => Value;
  for (const [name, f] of Object.entries(FUNCTIONS)) environment.setVariable(hidden(name), new make(f) as never);
  const print: Function = ([x]) => {
    if (x?.type === "NullValue") onNone();
    return new Text(printed(x as Value));
  };
  environment.setVariable(hidden("print"), new make(print) as never);
}

// ── The pass ──

const sample = (parse(tokenize("{{ f('') }}")) as unknown as Program).body[0] as Node & { callee: Node; args: [Node] };
type NodeClass = new (...fields: unknown[]) => Node;
const [Call, Identifier, Literal] = [sample, sample.callee, sample.args[0]].map((node) => node.constructor) as [NodeClass, NodeClass, NodeClass]; // prettier-ignore
const literal = (text: string): Node => new Literal(text);
const call = (name: string, ...args: unknown[]): Node => new Call(new Identifier(hidden(name)), args);

const STATEMENTS = new Set([
  "StringLiteral",
  "Set",
  "If",
  "For",
  "Macro",
  "CallStatement",
  "FilterStatement",
  "Break",
  "Continue",
  "Comment",
]);
const isNode = (x: unknown): x is Node => typeof x === "object" && x !== null && typeof (x as Node).type === "string";

/** Parses a template and applies the pass. @throws Error syntax that the library does not know, or a refusal */
export function compile(source: string): Program {
  const tokens = tokenize(source.replace(/\r\n?/g, "\n"), { lstrip_blocks: true, trim_blocks: true });
  refuseChains(tokens as readonly { type: string; value: string }[]);
  const program = parse(tokens) as unknown as Program;
  program.body = block(program.body);
  return program;
}

/** Statements of a body: what they print goes through `print`. */
function block(body: readonly Node[]): Node[] {
  return body.map((node) => {
    if (!STATEMENTS.has(node.type)) return call("print", rewrite(node));
    return node.type === "StringLiteral" ? node : (rewrite(node) as Node);
  });
}

function rewrite(x: unknown): unknown {
  if (Array.isArray(x)) return x.map(rewrite);
  if (x instanceof Map) return new Map([...x].map(([k, v]) => [rewrite(k), rewrite(v)]));
  if (!isNode(x)) return x;
  if (x.type === "For") refuseLostText(x["body"] as Node[]);
  for (const [key, value] of Object.entries(x)) {
    const isBlock = Array.isArray(value) && ["body", "alternate", "defaultBlock"].includes(key);
    x[key] = isBlock ? block(value as Node[]) : rewrite(value);
  }
  const { operator, left, right, callee, operand, filter } = x as unknown as Record<string, Node & { value: string }>;
  if (x.type === "BinaryExpression" && operator && operator.value in FUNCTIONS) return call(operator.value, left, right);
  if (x.type === "CallExpression" && callee?.type === "MemberExpression" && callee["computed"] !== true)
    return call("method", callee["object"], literal((callee["property"] as { value: string }).value), ...(x["args"] as Node[]));
  if (x.type === "MemberExpression") x["object"] = call("some", x["object"]);
  if (x.type === "FilterExpression" && filter) {
    const name = filter.type === "Identifier" ? filter.value : (filter["callee"] as { value?: string } | undefined)?.value;
    if (name !== undefined && ["tojson", "string", "trim", "length", "join"].includes(name))
      return call(name, operand, ...((filter["args"] as Node[] | undefined) ?? []));
  }
  if (x.type === "For") {
    const names = setIn(x["body"] as Node[]).filter((name) => name !== "loop" && !namesOf(x["loopvar"] as Node).includes(name));
    if (names.length > 0) (x["body"] as Node[]).unshift(call("fresh", ...names.map(literal)));
  }
  return x;
}

const namesOf = (target: Node): string[] =>
  target.type === "TupleLiteral" ? (target["value"] as Node[]).flatMap(namesOf) : [String(target["value"])];

/** Names that a loop's body sets in the scope of an iteration. */
function setIn(body: readonly Node[]): string[] {
  return body.flatMap((node): string[] => {
    if (node.type === "If") return [...setIn(node["body"] as Node[]), ...setIn(node["alternate"] as Node[])];
    const target = node.type === "Set" ? (node["assignee"] as Node) : null;
    return target && target.type !== "MemberExpression" ? namesOf(target) : [];
  });
}

/** The library drops all that an iteration has written when it meets break or continue. @returns whether the body may leave */
function refuseLostText(body: readonly Node[], written = false): boolean {
  let leaves = false;
  for (const node of body) {
    if (node.type === "Break" || node.type === "Continue") {
      if (written) fail(`text before {% ${node.type.toLowerCase()} %} in the same iteration is not supported`);
      leaves = true;
    } else if (node.type === "If") {
      for (const branch of ["body", "alternate"]) leaves = refuseLostText(node[branch] as Node[], written) || leaves;
      written ||= prints(node);
    } else written ||= prints(node);
  }
  return leaves;
}

const prints = (node: Node): boolean =>
  node.type === "If"
    ? [...(node["body"] as Node[]), ...(node["alternate"] as Node[])].some(prints)
    : node.type === "StringLiteral"
      ? node["value"] !== ""
      : !["Set", "Macro", "Comment", "Break", "Continue"].includes(node.type);

// `a < b < c` means (a < b) and (b < c) in Python, (a < b) < c to the library; brackets make it the latter.
function refuseChains(tokens: readonly { readonly type: string; readonly value: string }[]): void {
  const compared = [false]; // by bracket
  for (const { type, value } of tokens) {
    const word = type === "Identifier" ? value : "";
    if (type.startsWith("Open")) compared.push(false);
    else if (type.startsWith("Close")) compared.pop();
    else if (["Comma", "Colon", "Equals"].includes(type) || ["and", "or", "if", "else", "elif", "for"].includes(word))
      compared[compared.length - 1] = false;
    else if (type === "ComparisonBinaryOperator") {
      if (compared.at(-1)) fail(`chained comparisons (… ${value} …) are not supported; write them with "and"`);
      compared[compared.length - 1] = true;
    }
  }
}
