// What mutation testing leaves alone: the words of errors. A plugin of StrykerJS; scripts/test-mutation.ts loads it.
//
// Tests hold errors to their class, their code and the parts of a message that a fix depends on, not to every word: mutants of the
// arguments of `new …Error(…)` and `…Fault(…)` would be counted as survivors without saying anything about the tests. That such an error
// is thrown at all is mutated: the condition before it and the statement itself.

/** What is read of a node of Babel's tree. */
interface Node {
  readonly type: string;
  readonly name?: string;
  readonly callee?: Node;
}

const words = {
  shouldIgnore(path: unknown): string | undefined {
    const { node, listKey, parent } = path as { readonly node: Node; readonly listKey?: string; readonly parent?: Node };
    if (listKey !== "arguments" || parent === undefined || node === undefined) return undefined;
    const callee = parent.callee?.name ?? "";
    const error = parent.type === "NewExpression" ? /Error$/ : /[fF]ault$/;
    return error.test(callee) ? "the words of an error" : undefined;
  },
};

export const strykerPlugins = [{ kind: "Ignore", name: "error-words", value: words }];
