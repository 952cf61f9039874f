package fulcrum;

import java.io.IOException;

/** Reads RSS + swap every few milliseconds: VmHWM does not count pages that were swapped out meanwhile. */
final class Sampler implements Runnable {
  private final int milliseconds;
  private final Thread thread = new Thread(this, "memory");
  private volatile boolean stopped = false;
  private Exception failure; // as peak and count: read after the thread has ended
  private long peak = 0;
  private long count = 0;

  Sampler(int milliseconds) {
    this.milliseconds = milliseconds;
    thread.setDaemon(true);
    thread.start();
  }

  @Override
  public void run() {
    try {
      do {
        peak = Math.max(peak, Memory.residentBytes());
        count++;
        Thread.sleep(milliseconds);
      } while (!stopped);
    } catch (Exception error) {
      failure = error;
    }
  }

  void finish(Answer answer) throws IOException {
    stopped = true;
    try {
      thread.join();
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    }
    if (failure != null) throw new IOException("memory could not be sampled: " + failure);
    answer.sampled(peak, count);
  }
}
