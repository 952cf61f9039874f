package com.facebook.jni;

import java.util.Iterator;

/** Walks a collection for the native side, which reads the field by name. */
public class IteratorHelper {
  private final Iterator<?> elements;
  private Object mElement;

  public IteratorHelper(Iterator<?> iterator) {
    elements = iterator;
  }

  public IteratorHelper(Iterable<?> iterable) {
    elements = iterable.iterator();
  }

  boolean hasNext() {
    boolean more = elements.hasNext();
    mElement = more ? elements.next() : null;
    return more;
  }
}
