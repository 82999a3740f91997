// What /metrics tells, in the text format of Prometheus.

import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { JobReport } from "./job.ts";
import type { Models } from "./models.ts";
import type { Queue } from "./queue.ts";

const SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

export class Metrics {
  private readonly registry = new Registry();
  private readonly registers = [this.registry];
  private readonly requests = this.counter("esft_requests_total", "Requests by path and status", ["path", "status"]);
  private readonly answers = this.counter("esft_answers_total", "Answers by model and how they ended", ["model", "finish"]);
  private readonly promptTokens = this.counter("esft_prompt_tokens_total", "Tokens of prompts that were answered", ["model"]);
  private readonly tokens = this.counter("esft_generated_tokens_total", "Tokens of answers", ["model"]);
  private readonly first = this.histogram("esft_time_to_first_piece_seconds", "From the request to the first piece of text");
  private readonly whole = this.histogram("esft_request_seconds", "From the request to the end of its last answer");

  constructor(models: Models, queue: Queue) {
    const gauge = (name: string, help: string, read: () => number): void => {
      const made: Gauge = new Gauge({ name, help, registers: this.registers, collect: () => made.set(read()) });
    };
    gauge("esft_sequences_decoding", "Sequences that are decoded", () => models.load.active);
    gauge("esft_sequences_waiting", "Sequences that wait for a place among them", () => models.load.waiting);
    gauge("esft_queue_size", "Answers on their way or waiting, all together", () => queue.size);
    gauge("esft_queue_limit", "How many that may be", () => queue.limit);
    gauge("process_resident_memory_bytes", "Resident memory size in bytes", () => process.memoryUsage.rss());
    const cpu: Counter = new Counter({
      name: "process_cpu_seconds_total",
      help: "Processor time of user and system",
      registers: this.registers,
      collect: () => {
        const { user, system } = process.cpuUsage();
        cpu.reset();
        cpu.inc((user + system) / 1e6);
      },
    });
  }

  private counter<L extends string>(name: string, help: string, labelNames: readonly L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: this.registers });
  }
  private histogram(name: string, help: string): Histogram<"model"> {
    return new Histogram({ name, help, labelNames: ["model"], buckets: SECONDS, registers: this.registers });
  }

  request(path: string, status: number): void {
    this.requests.inc({ path, status: String(status) });
  }

  job({ name: model, first, seconds, results, cancelled }: JobReport): void {
    if (results === null) return this.answers.inc({ model, finish: cancelled ? "cancelled" : "failed" });
    if (first !== null) this.first.observe({ model }, first);
    this.whole.observe({ model }, seconds);
    for (const { finishReason, promptTokens, ids } of results) {
      this.answers.inc({ model, finish: finishReason });
      this.promptTokens.inc({ model }, promptTokens);
      this.tokens.inc({ model }, ids.length);
    }
  }

  get contentType(): string {
    return this.registry.contentType;
  }
  text(): Promise<string> {
    return this.registry.metrics();
  }
}
