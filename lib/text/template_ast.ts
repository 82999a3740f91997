// Chat templates are parsed by @huggingface/jinja and evaluated by ours (template_evaluator.ts): the package's parser is right,
// its values are JavaScript's, not Python's. The shapes below are the nodes its parser makes.

import { parse, tokenize } from "@huggingface/jinja";
import { ConfigError } from "../errors.ts";

interface Of<T extends string> {
  readonly type: T;
}
export type Ident = Of<"Identifier"> & { readonly value: string };
export type Call = Of<"CallExpression"> & { readonly callee: Expr; readonly args: readonly Arg[] };
export type KeywordArg = Of<"KeywordArgumentExpression"> & { readonly key: Ident; readonly value: Expr };
export type Arg =
  | Expr
  | KeywordArg
  | (Of<"SpreadExpression"> & { readonly argument: Expr })
  | (Of<"KeywordSpreadExpression"> & { readonly argument: Expr });
export type Tuple = Of<"TupleLiteral"> & { readonly value: readonly Expr[] };
export type Slice = Of<"SliceExpression"> & { readonly start?: Expr; readonly stop?: Expr; readonly step?: Expr };
export type Select = Of<"SelectExpression"> & { readonly lhs: Expr; readonly test: Expr };
export type Member = Of<"MemberExpression"> & { readonly object: Expr; readonly property: Expr | Slice; readonly computed: boolean };

export type Expr =
  | Ident
  | Call
  | Tuple
  | Select
  | Member
  | (Of<"IntegerLiteral"> & { readonly value: number })
  | (Of<"FloatLiteral"> & { readonly value: number })
  | (Of<"StringLiteral"> & { readonly value: string })
  | (Of<"ArrayLiteral"> & { readonly value: readonly Expr[] })
  | (Of<"ObjectLiteral"> & { readonly value: ReadonlyMap<Expr, Expr> })
  | (Of<"BinaryExpression"> & { readonly operator: { readonly value: string }; readonly left: Expr; readonly right: Expr })
  | (Of<"UnaryExpression"> & { readonly operator: { readonly value: string }; readonly argument: Expr })
  | (Of<"FilterExpression"> & { readonly operand: Expr; readonly filter: Ident | Call })
  | (Of<"TestExpression"> & { readonly operand: Expr; readonly negate: boolean; readonly test: Ident })
  | (Of<"Ternary"> & { readonly condition: Expr; readonly trueExpr: Expr; readonly falseExpr: Expr });

export type Stmt =
  | Expr
  | (Of<"If"> & { readonly test: Expr; readonly body: readonly Stmt[]; readonly alternate: readonly Stmt[] })
  | (Of<"For"> & {
      readonly loopvar: Ident | Tuple;
      readonly iterable: Expr;
      readonly body: readonly Stmt[];
      readonly defaultBlock: readonly Stmt[];
    })
  | (Of<"Set"> & { readonly assignee: Expr; readonly value: Expr | null; readonly body: readonly Stmt[] })
  | (Of<"Macro"> & { readonly name: Ident; readonly args: readonly (Ident | KeywordArg)[]; readonly body: readonly Stmt[] })
  | (Of<"CallStatement"> & {
      readonly call: Call;
      readonly callerArgs: readonly (Ident | KeywordArg)[] | null;
      readonly body: readonly Stmt[];
    })
  | (Of<"FilterStatement"> & { readonly filter: Ident | Call; readonly body: readonly Stmt[] })
  | (Of<"Comment"> & { readonly value: string })
  | Of<"Break">
  | Of<"Continue">;

export function parseTemplate(source: string): readonly Stmt[] {
  try {
    const tokens = rewriteTests(tokenize(source.replace(/\r\n?/g, "\n"), { lstrip_blocks: true, trim_blocks: true }));
    refuseChainedComparisons(tokens);
    return parse(tokens).body as unknown as readonly Stmt[];
  } catch (cause) {
    if (cause instanceof ConfigError) throw cause;
    throw new ConfigError(`the chat template cannot be parsed: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
      where: { rule: "template" },
    });
  }
}

type Token = ReturnType<typeof tokenize>[number];

/** Tests with an argument reach the evaluator as filters of this name, because the parser knows only tests without one. */
export const TEST_PREFIX = "__is_";
const TESTS_WITH_ARGUMENT = new Set([
  "divisibleby",
  "sameas",
  "eq",
  "equalto",
  "ne",
  "lt",
  "lessthan",
  "le",
  "gt",
  "greaterthan",
  "ge",
  "in",
]);

// `a is [not] eq(b)`, `a is eq b`, `a is in [b]`  →  a | __is_[not_]eq(b)
function rewriteTests(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i] as Token;
    const negated = tokens[i + 1]?.value === "not";
    const at = i + (negated ? 2 : 1);
    const name = tokens[at];
    if (token.type !== "Identifier" || token.value !== "is" || name?.type !== "Identifier" || !TESTS_WITH_ARGUMENT.has(name.value)) {
      out.push(token);
      continue;
    }
    out.push({ type: "Pipe", value: "|" }, { type: "Identifier", value: `${TEST_PREFIX}${negated ? "not_" : ""}${name.value}` });
    i = at;
    if (tokens[at + 1]?.type === "OpenParen") continue;
    const end = endOfOperand(tokens, at + 1);
    out.push({ type: "OpenParen", value: "(" }, ...rewriteTests(tokens.slice(at + 1, end)), { type: "CloseParen", value: ")" });
    i = end - 1;
  }
  return out;
}

/** End of a literal, a name with members, or a list: what may follow a test without parentheses. */
function endOfOperand(tokens: readonly Token[], start: number): number {
  let depth = 0;
  for (let i = start; i < tokens.length; i++) {
    const type = (tokens[i] as Token).type;
    if (OPENING.has(type)) depth++;
    else if (CLOSING.has(type)) depth--;
    if (depth > 0) continue;
    const next = tokens[i + 1]?.type;
    if (type !== "Dot" && next !== "Dot" && next !== "OpenSquareBracket") return i + 1;
  }
  return tokens.length;
}

const OPENING = new Set(["OpenParen", "OpenSquareBracket", "OpenCurlyBracket", "OpenStatement", "OpenExpression"]);
const CLOSING = new Set(["CloseParen", "CloseSquareBracket", "CloseCurlyBracket", "CloseStatement", "CloseExpression"]);
const SEPARATORS = new Set(["Comma", "Colon", "Equals"]);
const SEPARATING_WORDS = new Set(["and", "or", "if", "else", "elif", "for"]);

// `a < b < c` means (a < b) and (b < c) in Python, but (a < b) < c to the parser. No known template writes it.
function refuseChainedComparisons(tokens: readonly { readonly type: string; readonly value: string }[]): void {
  const compared: boolean[] = [false];
  let statement = "";
  tokens.forEach((token, i) => {
    if (OPENING.has(token.type)) {
      compared.push(false);
      if (token.type === "OpenStatement") statement = tokens[i + 1]?.value ?? "";
    } else if (CLOSING.has(token.type)) compared.pop();
    else if (SEPARATORS.has(token.type) || (token.type === "Identifier" && SEPARATING_WORDS.has(token.value)))
      compared[compared.length - 1] = false;
    else if (token.type === "ComparisonBinaryOperator" || (token.type === "Identifier" && token.value === "in")) {
      if (token.value === "in" && statement === "for" && compared.length === 2 && compared[1] === false) return; // the `in` of the loop itself
      if (compared.at(-1) === true) {
        throw new ConfigError(`the chat template chains comparisons (… ${token.value} …), which is not supported; write them with "and"`, {
          where: { rule: "template" },
        });
      }
      compared[compared.length - 1] = true;
    }
  });
}
