// What is used of vega and vega-lite. Their own types describe every property of every specification, which takes the compiler
// longer than all of lib; charts/ builds a few, and the tests draw each.

declare module "vega" {
  export class View {
    constructor(dataflow: unknown, options: { readonly renderer: "none"; readonly loader: object; readonly logger?: object });
    toSVG(): Promise<string>;
    finalize(): void;
  }
  export function parse(spec: unknown): unknown;
}
declare module "vega-lite" {
  export function compile(spec: unknown, options: { readonly logger: object }): { readonly spec: unknown };
}
