// Evaluates a parsed chat template with Python's semantics, as jinja2's ImmutableSandboxedEnvironment does
// (trim_blocks, lstrip_blocks, loop controls; no autoescape).

import {
  TEST_PREFIX,
  type Arg,
  type Call,
  type Expr,
  type Ident,
  type KeywordArg,
  type Member,
  type Slice,
  type Stmt,
  type Tuple as TupleNode,
} from "./template_ast.ts";
import { BUILTINS, loopVariable } from "./template_builtins.ts";
import { buildFilters, findTest, type Filter } from "./template_filters.ts";
import { method } from "./template_methods.ts";
import { arithmetic, isView, missing, OUTPUT_LIMIT, slice, unary } from "./template_operators.ts";
import {
  Callable,
  compare,
  contains,
  defined,
  equals,
  fail,
  Float,
  isTrue,
  iterate,
  Namespace,
  needInteger,
  orElse,
  print,
  toKey,
  type Tuple,
  tuple,
  typeName,
  Undefined,
  type Args,
  type Dict,
  type Value,
} from "./template_values.ts";

const DEPTH_LIMIT = 200;

/** One frame of names. A loop iteration, macro or call block opens a new one; `if` does not. */
class Scope {
  readonly names = new Map<string, Value>();
  readonly parent: Scope | null;
  constructor(parent: Scope | null) {
    this.parent = parent;
  }
  find(name: string): Value | undefined {
    const own = this.names.get(name);
    return own === undefined ? this.parent?.find(name) : own;
  }
}

/** break and continue travel as exceptions through nested blocks, carrying what was printed before them. */
class LoopExit extends Error {
  readonly kind: "break" | "continue";
  text = "";
  constructor(kind: "break" | "continue") {
    super(`${kind} outside of a loop`);
    this.kind = kind;
  }
}

export class Evaluator {
  /** None was printed: transformers would write the four letters into the text. */
  printedNone = false;
  readonly #filter: (name: string) => Filter;
  #depth = 0;

  constructor() {
    this.#filter = buildFilters((value, name) => this.#item(value, name));
  }

  run(program: readonly Stmt[], globals: ReadonlyMap<string, Value>): string {
    const scope = new Scope(null);
    for (const [name, value] of BUILTINS) scope.names.set(name, value);
    for (const [name, value] of globals) scope.names.set(name, value);
    return this.#block(program, new Scope(scope));
  }

  #text(value: Value): string {
    if (value === null) this.printedNone = true;
    return print(value);
  }

  #block(body: readonly Stmt[], scope: Scope): string {
    let out = "";
    for (const node of body) {
      try {
        out += this.#statement(node, scope);
      } catch (error) {
        if (error instanceof LoopExit) error.text = out + error.text;
        throw error;
      }
      if (out.length > OUTPUT_LIMIT) fail(`the rendered text exceeds ${OUTPUT_LIMIT} characters`);
    }
    return out;
  }

  #statement(node: Stmt, scope: Scope): string {
    switch (node.type) {
      case "Comment":
        return "";
      case "If":
        return this.#block(isTrue(this.#eval(node.test, scope)) ? node.body : node.alternate, scope);
      case "For":
        return this.#loop(node, scope);
      case "Set": {
        const value = node.value === null ? this.#block(node.body, new Scope(scope)) : this.#eval(node.value, scope);
        this.#assign(node.assignee, value, scope);
        return "";
      }
      case "Macro":
        scope.names.set(node.name.value, this.#macro(node.name.value, node.args, node.body, scope));
        return "";
      case "CallStatement": {
        const caller = this.#macro("caller", node.callerArgs ?? [], node.body, scope);
        const args = this.#args(node.call.args, scope);
        return this.#text(
          this.#invoke(this.#eval(node.call.callee, scope), {
            positional: args.positional,
            named: new Map([...args.named, ["caller", caller]]),
          }),
        );
      }
      case "FilterStatement":
        return this.#text(this.#applyFilter(this.#block(node.body, new Scope(scope)), node.filter, scope));
      case "Break":
        throw new LoopExit("break");
      case "Continue":
        throw new LoopExit("continue");
      default:
        return this.#text(this.#eval(node, scope));
    }
  }

  #loop(node: Extract<Stmt, { type: "For" }>, scope: Scope): string {
    const select = node.iterable.type === "SelectExpression" ? node.iterable : null;
    let items = iterate(this.#eval(select === null ? node.iterable : select.lhs, scope));
    if (select !== null) {
      items = items.filter((item) => {
        const frame = new Scope(scope);
        this.#assign(node.loopvar, item, frame);
        return isTrue(this.#eval(select.test, frame));
      });
    }
    if (items.length === 0) return this.#block(node.defaultBlock, scope);
    let out = "";
    const seen: { last: Value | undefined } = { last: undefined };
    for (let i = 0; i < items.length; i++) {
      const frame = new Scope(scope);
      frame.names.set("loop", loopVariable(items, i, seen));
      this.#assign(node.loopvar, items[i] as Value, frame);
      try {
        out += this.#block(node.body, frame);
      } catch (error) {
        if (!(error instanceof LoopExit)) throw error;
        out += error.text;
        if (error.kind === "break") break;
      }
    }
    return out;
  }

  #assign(target: Expr, value: Value, scope: Scope): void {
    if (target.type === "Identifier") scope.names.set(target.value, value);
    else if (target.type === "TupleLiteral") {
      const items = iterate(value);
      if (items.length !== target.value.length) fail(`cannot unpack ${items.length} values into ${target.value.length} names`);
      target.value.forEach((t, i) => this.#assign(t, items[i] as Value, scope));
    } else if (target.type === "MemberExpression" && !target.computed && target.property.type === "Identifier") {
      const object = this.#eval(target.object, scope);
      if (!(object instanceof Namespace)) fail("cannot assign attribute on non-namespace object");
      else object.attributes.set(target.property.value, value);
    } else fail("this cannot be assigned to");
  }

  #macro(name: string, parameters: readonly (Ident | KeywordArg)[], body: readonly Stmt[], scope: Scope): Callable {
    const names = parameters.map((p) => (p.type === "Identifier" ? p.value : p.key.value));
    return new Callable(name, ({ positional, named }) => {
      if (++this.#depth > DEPTH_LIMIT) fail("macros are nested too deeply");
      const frame = new Scope(scope);
      const rest = new Map<string, Value>();
      for (const [key, value] of named) {
        const at = names.indexOf(key);
        if (at >= 0 && at < positional.length) fail(`macro '${name}' got multiple values for argument '${key}'`);
        if (at >= 0) frame.names.set(key, value);
        else if (key === "caller") frame.names.set("caller", value);
        else rest.set(key, value);
      }
      parameters.forEach((p, i) => {
        const key = names[i] as string;
        if (i < positional.length) frame.names.set(key, positional[i] as Value);
        else if (!frame.names.has(key)) {
          frame.names.set(key, p.type === "Identifier" ? new Undefined(`parameter '${key}' was not provided`) : this.#eval(p.value, frame));
        }
      });
      const extra = positional.slice(names.length);
      if (extra.length > 0 && !mentions(body, "varargs")) fail(`macro '${name}' takes not more than ${names.length} argument(s)`);
      if (rest.size > 0 && !mentions(body, "kwargs"))
        fail(`macro '${name}' takes no keyword argument '${Array.from(rest.keys())[0] ?? ""}'`);
      frame.names.set("varargs", tuple(...extra));
      frame.names.set("kwargs", new Map(rest));
      try {
        return this.#block(body, frame);
      } finally {
        this.#depth--;
      }
    });
  }

  #eval(node: Expr, scope: Scope): Value {
    switch (node.type) {
      case "StringLiteral":
      case "IntegerLiteral":
        return node.value;
      case "FloatLiteral":
        return new Float(node.value);
      case "ArrayLiteral":
        return node.value.map((v) => this.#eval(v, scope));
      case "TupleLiteral":
        return this.#tuple(node, scope);
      case "ObjectLiteral": {
        const out: Dict = new Map();
        for (const [key, value] of node.value) out.set(toKey(this.#eval(key, scope)), this.#eval(value, scope));
        return out;
      }
      case "Identifier":
        return orElse(scope.find(node.value), new Undefined(`'${node.value}' is undefined`));
      case "MemberExpression":
        return this.#member(node, scope);
      case "CallExpression":
        return this.#invoke(this.#eval(node.callee, scope), this.#args(node.args, scope));
      case "FilterExpression":
        return this.#applyFilter(this.#eval(node.operand, scope), node.filter, scope);
      case "TestExpression":
        return findTest(node.test.value)(this.#eval(node.operand, scope), []) !== node.negate;
      case "Ternary":
        return this.#eval(isTrue(this.#eval(node.condition, scope)) ? node.trueExpr : node.falseExpr, scope);
      case "SelectExpression":
        return isTrue(this.#eval(node.test, scope))
          ? this.#eval(node.lhs, scope)
          : new Undefined("the inline if-expression evaluated to false and no else section was defined");
      case "UnaryExpression":
        return unary(node.operator.value, this.#eval(node.argument, scope));
      case "BinaryExpression":
        return this.#binary(node.operator.value, node.left, node.right, scope);
    }
  }

  #tuple(node: TupleNode, scope: Scope): Tuple {
    return tuple(...node.value.map((v) => this.#eval(v, scope)));
  }

  #binary(operator: string, left: Expr, right: Expr, scope: Scope): Value {
    const a = this.#eval(left, scope);
    if (operator === "and") return isTrue(a) ? this.#eval(right, scope) : a;
    if (operator === "or") return isTrue(a) ? a : this.#eval(right, scope);
    const b = this.#eval(right, scope);
    switch (operator) {
      case "==":
        return equals(a, b);
      case "!=":
        return !equals(a, b);
      case "in":
        return contains(b, a);
      case "not in":
        return !contains(b, a);
      case "~":
        return this.#text(a) + this.#text(b);
    }
    defined(a);
    defined(b);
    switch (operator) {
      case "<":
        return compare(a, b) < 0;
      case "<=":
        return compare(a, b) <= 0;
      case ">":
        return compare(a, b) > 0;
      case ">=":
        return compare(a, b) >= 0;
      default:
        return arithmetic(operator, a, b);
    }
  }

  #member(node: Member, scope: Scope): Value {
    const object = this.#eval(node.object, scope);
    if (node.property.type === "SliceExpression") return slice(object, this.#bounds(node.property, scope));
    if (node.computed) return this.#item(object, this.#eval(node.property, scope));
    if (node.property.type === "IntegerLiteral") return this.#item(object, node.property.value);
    return this.#attribute(object, (node.property as Ident).value);
  }

  #bounds(node: Slice, scope: Scope): (number | null)[] {
    return [node.start, node.stop, node.step].map((part) => {
      const value = part === undefined ? null : this.#eval(part, scope);
      return value === null ? null : needInteger(value, "slice indices");
    });
  }

  // obj.name: the attribute (methods included), then the item.
  #attribute(object: Value, name: string): Value {
    defined(object);
    if (object instanceof Namespace) return orElse(object.attributes.get(name), missing(object, name));
    return method(object, name) ?? orElse(object instanceof Map ? object.get(name) : undefined, missing(object, name));
  }

  // obj[name]: the item, then the attribute.
  #item(object: Value, name: Value): Value {
    defined(object);
    if (object instanceof Namespace) return orElse(object.attributes.get(String(name)), missing(object, String(name)));
    if (object instanceof Map) {
      const key = name instanceof Undefined || (typeof name === "object" && name !== null) ? undefined : (name as string);
      const found = key === undefined ? undefined : object.get(key);
      if (found !== undefined) return found;
    } else if (typeof name === "number" && (typeof object === "string" || (Array.isArray(object) && !isView(object)))) {
      const items = typeof object === "string" ? Array.from(object) : object;
      return orElse(items[name < 0 ? items.length + name : name], missing(object, String(name)));
    }
    return (typeof name === "string" ? method(object, name) : undefined) ?? missing(object, typeof name === "string" ? name : print(name));
  }

  #args(nodes: readonly Arg[], scope: Scope): Args {
    const positional: Value[] = [];
    const named = new Map<string, Value>();
    for (const node of nodes) {
      if (node.type === "KeywordArgumentExpression") named.set(node.key.value, this.#eval(node.value, scope));
      else if (node.type === "SpreadExpression") positional.push(...iterate(this.#eval(node.argument, scope)));
      else if (node.type === "KeywordSpreadExpression") {
        const map = this.#eval(node.argument, scope);
        if (!(map instanceof Map)) fail("argument after ** must be a mapping");
        else for (const [key, value] of map) named.set(String(key), value);
      } else positional.push(this.#eval(node, scope));
    }
    return { positional, named };
  }

  #invoke(callee: Value, args: Args): Value {
    defined(callee);
    return callee instanceof Callable ? callee.call(args) : fail(`'${typeName(callee)}' object is not callable`);
  }

  #applyFilter(value: Value, filter: Ident | Call, scope: Scope): Value {
    const head: Expr | undefined = filter.type === "CallExpression" ? filter.callee : filter;
    if (head?.type !== "Identifier") return fail("a filter must be a name, with arguments in parentheses");
    const name = head.value;
    const args: Args = filter.type === "Identifier" ? { positional: [], named: new Map() } : this.#args(filter.args, scope);
    if (value === null && name === "string") this.printedNone = true;
    if (name.startsWith(TEST_PREFIX)) {
      const negated = name.startsWith(`${TEST_PREFIX}not_`);
      return findTest(name.slice(TEST_PREFIX.length + (negated ? 4 : 0)))(value, args.positional) !== negated;
    }
    return this.#filter(name)(value, args);
  }
}

/** Does a macro's body use `varargs` or `kwargs`? Without that, extra arguments are an error. */
function mentions(node: unknown, name: string): boolean {
  if (Array.isArray(node)) return node.some((n) => mentions(n, name));
  if (node instanceof Map) return Array.from(node).some(([k, v]) => mentions(k, name) || mentions(v, name));
  if (typeof node !== "object" || node === null) return false;
  const { type, value } = node as { type?: unknown; value?: unknown };
  return (type === "Identifier" && value === name) || Object.values(node).some((n) => mentions(n, name));
}
