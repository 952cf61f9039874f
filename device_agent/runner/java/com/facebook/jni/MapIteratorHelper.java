package com.facebook.jni;

import java.util.Iterator;
import java.util.Map;

/** Walks a map for the native side, which reads the two fields by name. */
public class MapIteratorHelper {
  private final Iterator<? extends Map.Entry<?, ?>> entries;
  private Object mKey;
  private Object mValue;

  public MapIteratorHelper(Map<?, ?> map) {
    entries = map.entrySet().iterator();
  }

  boolean hasNext() {
    boolean more = entries.hasNext();
    Map.Entry<?, ?> entry = more ? entries.next() : null;
    mKey = more ? entry.getKey() : null;
    mValue = more ? entry.getValue() : null;
    return more;
  }
}
