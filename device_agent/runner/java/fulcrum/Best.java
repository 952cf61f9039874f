package fulcrum;

/** The best token and the second best. */
final class Best {
  int token = 0;
  int runnerUp = 1;
  float logit;
  float runnerUpLogit;

  Best(float[] logits) {
    logit = logits[0];
    runnerUpLogit = logits[1];
    if (logits[1] > logits[0]) {
      token = 1;
      runnerUp = 0;
      logit = logits[1];
      runnerUpLogit = logits[0];
    }
    for (int i = 2; i < logits.length; i++) {
      if (logits[i] > logit) {
        runnerUp = token;
        runnerUpLogit = logit;
        token = i;
        logit = logits[i];
      } else if (logits[i] > runnerUpLogit) {
        runnerUp = i;
        runnerUpLogit = logits[i];
      }
    }
  }
}
