// The command line: parse → call the library → print. Commands load their code when they run, so that `esft doctor` works
// where the addon does not.

import { Command, CommanderError } from "@commander-js/extra-typings";
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { EsftError } from "../errors.ts";
import { meantBy, nearest } from "../options/suggest.ts";
import { registerBuild } from "./build.ts";
import { CheckFailed } from "./common.ts";
import { registerChat } from "./chat.ts";
import { registerCompare } from "./compare.ts";
import { registerDemo } from "./demo_command.ts";
import { registerDoctor } from "./doctor.ts";
import { registerEval } from "./eval.ts";
import { registerExport } from "./export.ts";
import { registerInit } from "./init.ts";
import { registerInspect } from "./inspect.ts";
import { registerMerge } from "./merge.ts";
import { JOB_NAMES } from "./job_options.ts";
import { packageJson } from "./package.ts";
import { registerPull } from "./pull.ts";
import { registerPlan } from "./plan.ts";
import { registerPreview } from "./preview.ts";
import { registerProfile } from "./profile.ts";
import { shortName } from "./schema_flags.ts";
import { registerSelect } from "./select.ts";
import { registerReport } from "./report.ts";
import { registerServe } from "./serve.ts";
import { Terminal } from "./terminal.ts";
import type { Streams } from "./terminal.ts";
import { registerTrain } from "./train.ts";
import { registerVerify } from "./verify.ts";
import { registerWatch } from "./watch.ts";

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
    registerPull,
    registerInit,
    registerInspect,
    registerPlan,
    registerProfile,
    registerSelect,
    registerTrain,
    registerEval,
    registerCompare,
    registerChat,
    registerServe,
    registerMerge,
    registerExport,
    registerVerify,
    registerPreview,
    registerReport,
    registerWatch,
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
  if (flag !== undefined) return `unknown option ${flag}${explainFlag(flag, command ?? program)} (${help})`;
  const [, name] = /unknown command '([^']*)'/.exec(text) ?? [];
  if (name !== undefined) {
    const names = program.commands.map((c) => c.name());
    const near = nearest(name, names);
    return `unknown command ${name}; ${near === undefined ? `the commands are ${names.join(", ")}` : `did you mean ${near}?`} (${help})`;
  }
  return `${text} (${help})`;
}

/** What an unknown flag must have meant, as the command writes it. */
function explainFlag(flag: string, command: CommandUnknownOpts): string {
  const flags = command.options.flatMap((o) => (o.long ? [o.long] : []));
  const own = (path: string): string | null => {
    const name = `--${shortName(path.split("."), JOB_NAMES)}`;
    return flags.includes(name) ? name : null;
  };
  const dotted = flag.includes(".");
  const meant = meantBy(
    flag,
    flags.filter((name) => name.includes(".") === dotted),
    own,
  );
  return meant === null ? "" : "answer" in meant ? `; in esft: ${meant.answer}` : `; did you mean ${meant.name}?`;
}
