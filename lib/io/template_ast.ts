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
export type Arg = Expr | KeywordArg | (Of<"SpreadExpression"> & { readonly argument: Expr }) | (Of<"KeywordSpreadExpression"> & { readonly argument: Expr });
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
  | (Of<"For"> & { readonly loopvar: Ident | Tuple; readonly iterable: Expr; readonly body: readonly Stmt[]; readonly defaultBlock: readonly Stmt[] })
  | (Of<"Set"> & { readonly assignee: Expr; readonly value: Expr | null; readonly body: readonly Stmt[] })
  | (Of<"Macro"> & { readonly name: Ident; readonly args: readonly (Ident | KeywordArg)[]; readonly body: readonly Stmt[] })
  | (Of<"CallStatement"> & { readonly call: Call; readonly callerArgs: readonly (Ident | KeywordArg)[] | null; readonly body: readonly Stmt[] })
  | (Of<"FilterStatement"> & { readonly filter: Ident | Call; readonly body: readonly Stmt[] })
  | (Of<"Comment"> & { readonly value: string })
  | Of<"Break">
  | Of<"Continue">;

export function parseTemplate(source: string): readonly Stmt[] {
  try {
    const tokens = tokenize(source.replace(/\r\n?/g, "\n"), { lstrip_blocks: true, trim_blocks: true });
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
    else if (SEPARATORS.has(token.type) || (token.type === "Identifier" && SEPARATING_WORDS.has(token.value))) compared[compared.length - 1] = false;
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
