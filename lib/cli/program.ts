// The command line: parse → call the library → print. Commands load their code when they run, so that `esft doctor` works
// where the addon does not.

import { Command, CommanderError } from "@commander-js/extra-typings";
import { EsftError } from "../errors.ts";
import { nearest } from "../options.ts";
import { registerBuild } from "./build.ts";
import { CheckFailed } from "./common.ts";
import { registerDemo } from "./demo_command.ts";
import { registerDoctor } from "./doctor.ts";
import { registerEval } from "./eval.ts";
import { registerInspect } from "./inspect.ts";
import { registerMerge } from "./merge.ts";
import { packageJson } from "./package.ts";
import { registerPreview } from "./preview.ts";
import { registerProfile } from "./profile.ts";
import { registerSelect } from "./select.ts";
import { Terminal } from "./terminal.ts";
import type { Streams } from "./terminal.ts";
import { registerTrain } from "./train.ts";
import { registerVerify } from "./verify.ts";

export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** Runs one command line. @returns the exit code: 0, 1 failed, 2 usage, 130 interrupted */
export async function runCli(argv: readonly string[], streams: Streams): Promise<number> {
  const terminal = new Terminal(streams);
  const program = buildProgram(terminal);
  const verbose = argv.includes("--verbose");
  try {
    await program.parseAsync([...argv], { from: "user" });
    return EXIT.ok;
  } catch (error) {
    terminal.clear();
    if (error instanceof CheckFailed) return EXIT.failed;
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT.ok;
      if (error.code !== "commander.help") streams.err(`error [ERR_USAGE]: ${usageMessage(error, program, argv)}\n`);
      return EXIT.usage;
    }
    if (streams.signal.aborted && (error === streams.signal.reason || (error as EsftError).code === "ERR_ABORTED")) {
      streams.err("interrupted\n");
      return EXIT.interrupted;
    }
    const e = error instanceof Error ? error : new Error(String(error));
    streams.err(`error [${e instanceof EsftError ? e.code : "ERR_INTERNAL"}]: ${e.message}\n`);
    if (verbose) {
      streams.err(`${e.stack ?? ""}\n`);
      for (let cause = e.cause; cause instanceof Error; cause = cause.cause) streams.err(`caused by ${cause.stack ?? cause.message}\n`);
    } else if (!(e instanceof EsftError)) streams.err("this is a defect of esft; --verbose shows where\n");
    return EXIT.failed;
  }
}

function buildProgram(terminal: Terminal): Command {
  const program = new Command("esft")
    .description("Expert-Specialized Fine-Tuning: find the experts that a task uses, train only those, merge them back.")
    .version(packageJson().version)
    .showSuggestionAfterError(false)
    .exitOverride()
    .configureHelp({ sortSubcommands: false })
    .configureOutput({
      writeOut: (text) => terminal.print(text.trimEnd()),
      writeErr: (text) => terminal.note(text.trimEnd()),
      outputError: () => undefined, // runCli words it
      getOutHelpWidth: () => 100,
      getErrHelpWidth: () => 100,
    });
  for (const register of [
    registerInspect,
    registerProfile,
    registerSelect,
    registerTrain,
    registerEval,
    registerMerge,
    registerVerify,
    registerPreview,
    registerDoctor,
    registerBuild,
    registerDemo,
  ])
    register(program, terminal);
  program.addHelpText(
    "after",
    `
A whole task:
  esft profile ./OLMoE law.jsonl -o law.profile.json
  esft select  law.profile.json --score token --p 0.2 -o law.experts.json
  esft train   --model ./OLMoE --data law.jsonl --experts law.experts.json --out out/law --steps 500
  esft merge   ./OLMoE --adapter out/law -o ./OLMoE-law
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Each command has its own --help.`,
  );
  for (const command of program.commands) {
    command.exitOverride().showSuggestionAfterError(false).option("--verbose", "show the stack of an error");
    command.configureOutput(program.configureOutput());
  }
  return program;
}

function usageMessage(error: CommanderError, program: Command, argv: readonly string[]): string {
  const command = program.commands.find((c) => c.name() === argv[0]);
  const help = `see esft ${command ? `${command.name()} ` : ""}--help`;
  const text = error.message.replace(/^error: /, "");
  const [, flag] = /unknown option '(--?[^']*)'/.exec(text) ?? [];
  if (flag !== undefined) {
    const valid = (command ?? program).options.flatMap((o) => (o.long ? [o.long] : []));
    const dotted = flag.includes(".");
    const hint = nearest(
      flag,
      valid.filter((v) => v.includes(".") === dotted),
    );
    return `unknown option ${flag}${hint ? `; did you mean ${hint}?` : ""} (${help})`;
  }
  const [, name] = /unknown command '([^']*)'/.exec(text) ?? [];
  if (name !== undefined)
    return `unknown command ${name}; did you mean ${nearest(
      name,
      program.commands.map((c) => c.name()),
    )}? (${help})`;
  return `${text} (${help})`;
}
