package org.pytorch.executorch;

/** An error of the runtime's own. */
public class ExecutorchRuntimeException extends RuntimeException {
  private static final long serialVersionUID = 1;

  public ExecutorchRuntimeException(String message) {
    super(message);
  }
}
