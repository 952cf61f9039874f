package com.facebook.jni;

/** Something was thrown in C++ that is no exception. */
public class UnknownCppException extends CppException {
  public UnknownCppException() {
    super("unknown C++ exception");
  }

  public UnknownCppException(String message) {
    super(message);
  }
}
