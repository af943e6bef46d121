import six

print("Hello from Python", six.text_type(42))
