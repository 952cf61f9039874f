package fulcrum;

import java.io.PrintStream;

/** JSON lines on standard output (device_agent/runner/output.py reads them). */
final class Answer {
  private final PrintStream out;

  Answer(PrintStream out) {
    this.out = out;
  }

  void loaded(long ns, long baselineBytes) {
    say("loaded", "\"load_ns\":" + ns + ",\"baseline_bytes\":" + baselineBytes);
  }

  /** What stayed of the Program's files in the page cache when they were asked to leave it. */
  void evicted(double resident) {
    say("evicted", "\"resident\":" + resident);
  }

  void first(long prefillNs) {
    say("first", "\"prefill_ns\":" + prefillNs);
  }

  void repetition(long prefillNs, long[] decodeNs) {
    say("repetition", "\"prefill_ns\":" + prefillNs + ",\"decode_ns\":" + list(decodeNs));
  }

  void repetition(int workload, long prefillNs) {
    say("repetition", "\"workload\":" + workload + ",\"prefill_ns\":" + prefillNs);
  }

  void repetition(int workload, long[] decodeNs, long token) {
    say("repetition", "\"workload\":" + workload + ",\"decode_ns\":" + list(decodeNs) + ",\"token\":" + token);
  }

  void filled(int workload, long ns) {
    say("filled", "\"workload\":" + workload + ",\"ns\":" + ns);
  }

  void stage(int index, long[] prefillNs, long[] decodeNs) {
    say("stage", "\"index\":" + index + ",\"prefill_ns\":" + list(prefillNs) + ",\"decode_ns\":" + list(decodeNs));
  }

  void prefilled(long ns) {
    say("prefilled", "\"ns\":" + ns);
  }

  void token(Best best, long ns) {
    say("token", "\"token\":" + best.token + ",\"logit\":" + number(best.logit) + ",\"runner_up\":" + best.runnerUp
        + ",\"runner_up_logit\":" + number(best.runnerUpLogit) + ",\"ns\":" + ns);
  }

  void logits(long ns, float[] values) {
    StringBuilder list = new StringBuilder();
    for (int i = 0; i < values.length; i++) list.append(i == 0 ? "" : ",").append(number(values[i]));
    say("logits", "\"ns\":" + ns + ",\"values\":[" + list + "]");
  }

  /** The kernel's own words; the agent reads them. */
  void memory(String when, String status, String rollup) {
    say("memory", "\"when\":\"" + when + "\",\"status\":\"" + escaped(status) + "\",\"smaps_rollup\":\""
        + escaped(rollup) + "\"");
  }

  void sampled(long peakBytes, long samples) {
    say("sampled", "\"peak_bytes\":" + peakBytes + ",\"samples\":" + samples);
  }

  void done(long peakBytes, long cpuNs) {
    say("done", "\"peak_bytes\":" + peakBytes + ",\"cpu_ns\":" + cpuNs);
  }

  void error(String slug, String message) {
    say("error", "\"slug\":\"" + slug + "\",\"message\":\"" + escaped(String.valueOf(message)) + "\"");
  }

  private void say(String event, String body) {
    out.println("{\"event\":\"" + event + "\"," + body + "}");
    out.flush();
  }

  private static String list(long[] values) {
    StringBuilder text = new StringBuilder("[");
    for (int i = 0; i < values.length; i++) text.append(i == 0 ? "" : ",").append(values[i]);
    return text.append("]").toString();
  }

  /** JSON has no NaN: null stands for it. */
  private static String number(float value) {
    return Float.isNaN(value) || Float.isInfinite(value) ? "null" : Float.toString(value);
  }

  private static String escaped(String text) {
    StringBuilder safe = new StringBuilder();
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') safe.append('\\');
      if (c == '\n') safe.append("\\n");
      else safe.append(c < 0x20 ? ' ' : c);
    }
    return safe.toString();
  }
}
