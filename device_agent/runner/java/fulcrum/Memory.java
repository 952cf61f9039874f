package fulcrum;

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/** The kernel's high-water mark of this process's resident memory (proc(5): VmHWM, clear_refs). */
final class Memory {
  private Memory() {}

  static long peakBytes() throws IOException {
    try (BufferedReader lines =
        new BufferedReader(new InputStreamReader(new FileInputStream("/proc/self/status"), StandardCharsets.UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (line.startsWith("VmHWM:")) return Long.parseLong(line.substring(6).replace("kB", "").trim()) * 1024;
      }
    }
    throw new IOException("/proc/self/status has no VmHWM");
  }

  /** Starting up touches more memory than stays: the mark begins anew, where the kernel lets us. */
  static void resetPeak() {
    try (FileOutputStream file = new FileOutputStream("/proc/self/clear_refs")) {
      file.write('5');
    } catch (IOException refused) {
      // The baseline is then the mark of the start, and the difference to the peak is too small, never too large.
      System.err.println("the peak of the start could not be reset: " + refused.getMessage());
    }
  }
}
