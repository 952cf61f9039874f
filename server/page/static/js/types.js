/**
 * The answers of the REST API that the page reads (the models of `server/api/views.py`).
 *
 * @typedef {"queued"|"running"|"succeeded"|"failed"|"cancelled"} WorkState
 * @typedef {{blame: "user"|"phone"|"infrastructure"|"us", slug: string, message: string, advice: string}} Fault
 * @typedef {{value: number, low: number, high: number}} Figure
 * @typedef {{ttft_ms: Figure, prefill_tokens_per_second: Figure, decode_ms: Figure, decode_p95_ms: Figure,
 *   load_ms: Figure, peak_memory_bytes: number, flags: string[]}} Profile
 * @typedef {{message: string, done: number, total: number}} Progress
 * @typedef {{operator: "conv", kernel: number}} Convolution
 * @typedef {{operator: "attention", heads: number, kv_heads: number, head_dim: number}} Attention
 * @typedef {{vocab_size: number, width: number, ffn_width: number, blocks: (Convolution|Attention)[]}} Architecture
 *
 * @typedef {object} Candidate
 * @property {number} number
 * @property {Architecture} architecture
 * @property {number} parameters
 * @property {"proposed"|"exported"|"measured"|"done"|"failed"} phase
 * @property {Record<string, Profile>} profiles
 * @property {Record<string, Profile>} confirmed
 * @property {Record<string, {decode_ms: number, ttft_ms: number, seen: number}>} predicted
 * @property {string|null} program
 * @property {string|null} linked
 * @property {Fault|null} confirm_fault
 * @property {{bits_per_byte: number, tokens: number}|null} quality
 * @property {Record<string, number>} violations
 * @property {Fault|null} fault
 * @property {Record<string, number>} seconds
 * @property {boolean} feasible
 * @property {boolean} on_front
 * @property {boolean} winner
 *
 * @typedef {{budget: string, bound: number, winner_value: number|null, keeps_probability: number|null,
 *   best_value: number|null, excluded: number, binding: boolean}} BudgetReport
 * @typedef {{front: number[], winner: number|null, budgets: BudgetReport[], why: string}} Verdict
 * @typedef {{decode_ms: number|null, ttft_ms: number|null, peak_memory_mb: number|null}} Budgets
 *
 * @typedef {object} Search
 * @property {string} id
 * @property {string} name
 * @property {WorkState} state
 * @property {{phones: string[], budgets: Budgets, objectives: string[], effort: {candidates: number},
 *   protocol: {prefill_tokens: number, decode_tokens: number, threads: number}}} spec
 * @property {string} created_at
 * @property {string|null} started_at
 * @property {string|null} finished_at
 * @property {Progress} progress
 * @property {Verdict|null} verdict
 * @property {Fault|null} fault
 * @property {number} attempts
 * @property {{proposed: number, done: number, failed: number, feasible: number}} counts
 *
 * @typedef {object} PhoneFacts
 * @property {string} model
 * @property {string|null} manufacturer
 * @property {string|null} soc
 * @property {string|null} android
 * @property {number|null} sdk
 * @property {string|null} fingerprint
 * @property {string|null} abi
 * @property {number|null} cores
 * @property {Record<string, number>} cluster_max_khz
 * @property {Record<string, number[]>} [cluster_cores]
 * @property {number|null} memory_bytes
 * @property {number|null} free_bytes
 * @property {boolean} virtual
 *
 * @typedef {{battery_percent: number|null, battery_celsius: number|null, charging: boolean|null,
 *   free_bytes: number|null}} Vitals
 * @typedef {{started_at: string, passed: boolean, items: {name: string, passed: boolean, detail: string}[]}} Health
 * @typedef {{pid: number, started_at: string, restarts: number, rss_bytes: number|null}} WorkerProcess
 *
 * @typedef {object} Phone
 * @property {string} serial
 * @property {string|null} name
 * @property {boolean} registered
 * @property {"unproven"|"ready"|"resting"|"unauthorised"|"unreachable"|"quarantined"|"maintenance"|"silent"} state
 * @property {PhoneFacts|null} facts
 * @property {Fault|null} fault
 * @property {string|null} agent
 * @property {string|null} last_seen
 * @property {{kind: string, id: string}|null} job
 * @property {string[]} tags
 * @property {string|null} group
 * @property {string|null} note
 * @property {"tcp"|"usb"|"adb-server"|null} via
 * @property {string|null} probed_at
 * @property {Vitals|null} vitals
 * @property {Health|null} health
 * @property {WorkerProcess|null} worker
 * @property {boolean|null} virtual
 * @property {SelfCheck|null} self_check
 *
 * @typedef {{name: string, ok: boolean, message: string, figures: Record<string, number>}} CheckStep
 * @typedef {{id: string, state: "preparing"|"queued"|"running"|"passed"|"failed", passed: boolean, outdated: boolean,
 *   finished_at: string|null, runner: string|null, steps: CheckStep[], fault: Fault|null}} SelfCheck
 *
 * @typedef {{figure: string, title: string, unit: "percent"|"bits per byte"|"nats a token",
 *   better: "higher"|"lower"|null, before: number|null, after: number|null,
 *   change: "better"|"worse"|"same"|null}} Reading
 * @typedef {{name: string, state: WorkState, before: Record<string, number>, after: Record<string, number>,
 *   seconds: number|null, checkpoint: string|null, lever: number, title: string, counted: string, headline: Reading,
 *   forgetting: Reading|null, notes: string[]}} Stage
 * @typedef {{tokens: number, at: string, values: Record<string, number|null>}} MetricPoint
 * @typedef {{tokens: number, agreed: number, max_logit_difference: number, passed: boolean,
 *   near_ties: {position: number, logit_gap: number, bound: number}[]}} TokenCheck
 *
 * @typedef {object} Run
 * @property {string} id
 * @property {string} name
 * @property {WorkState} state
 * @property {{search: string, prompt: string, new_tokens: number, phone: string|null}} spec
 * @property {number} candidate
 * @property {Architecture} architecture
 * @property {string} created_at
 * @property {string|null} started_at
 * @property {string|null} finished_at
 * @property {Progress} progress
 * @property {Stage[]} stages
 * @property {Record<string, Profile>} profiles
 * @property {{serial: string, virtual: boolean, steps: {ns: number}[]}|null} generation
 * @property {TokenCheck|null} check
 * @property {string|null} text
 * @property {Fault|null} fault
 * @property {number} attempts
 */

export {};
