package com.facebook.jni;

/** A C++ exception that crossed into Java. */
public class CppException extends RuntimeException {
  public CppException(String message) {
    super(message);
  }
}
