package fulcrum;

import java.io.PrintStream;

/** JSON lines on standard output (device_agent/runner/output.py reads them). */
final class Answer {
  private final PrintStream out;

  Answer(PrintStream out) {
    this.out = out;
  }

  void loaded(long ns, long baselineBytes) {
    say("{\"event\":\"loaded\",\"load_ns\":" + ns + ",\"baseline_bytes\":" + baselineBytes + "}");
  }

  void repetition(long prefillNs, long[] decodeNs) {
    StringBuilder line = new StringBuilder("{\"event\":\"repetition\",\"prefill_ns\":").append(prefillNs);
    line.append(",\"decode_ns\":[");
    for (int i = 0; i < decodeNs.length; i++) line.append(i == 0 ? "" : ",").append(decodeNs[i]);
    say(line.append("]}").toString());
  }

  void prefilled(long ns) {
    say("{\"event\":\"prefilled\",\"ns\":" + ns + "}");
  }

  void token(Loop.Best best, long ns) {
    say("{\"event\":\"token\",\"token\":" + best.token + ",\"logit\":" + number(best.logit)
        + ",\"runner_up\":" + best.runnerUp + ",\"runner_up_logit\":" + number(best.runnerUpLogit)
        + ",\"ns\":" + ns + "}");
  }

  void logits(long ns, float[] values) {
    StringBuilder line = new StringBuilder("{\"event\":\"logits\",\"ns\":").append(ns).append(",\"values\":[");
    for (int i = 0; i < values.length; i++) line.append(i == 0 ? "" : ",").append(number(values[i]));
    say(line.append("]}").toString());
  }

  void done(long peakBytes) {
    say("{\"event\":\"done\",\"peak_bytes\":" + peakBytes + "}");
  }

  void error(String slug, String message) {
    say("{\"event\":\"error\",\"slug\":\"" + slug + "\",\"message\":\"" + escaped(String.valueOf(message)) + "\"}");
  }

  private void say(String line) {
    out.println(line);
    out.flush();
  }

  /** JSON has no NaN: null stands for it. */
  private static String number(float value) {
    return Float.isNaN(value) || Float.isInfinite(value) ? "null" : Float.toString(value);
  }

  private static String escaped(String text) {
    StringBuilder safe = new StringBuilder();
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') safe.append('\\');
      safe.append(c < 0x20 ? ' ' : c);
    }
    return safe.toString();
  }
}
