/* The C interface from C: opens the bundle of the first argument, looks at a grey image twice, prints what it found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgekit/edgekit.h"

int main(int count, char** words) {
  edgekit_error error = {0, ""};
  const int width = 200, height = 120;
  uint8_t* pixels = NULL;
  edgekit_options options;
  edgekit_settings settings;
  int code = 0;

  edgekit_default_options(&options);
  edgekit_default_settings(&settings);
  settings.threads = 1;
  options.conf = 0;
  options.max_det = 5;
  if (edgekit_open("absent", NULL, &error) != NULL || error.kind != 1) return 10;
  fprintf(stderr, "%s\n", error.message);
  if (edgekit_open(NULL, NULL, NULL) != NULL) return 11;
  if (count < 2) return 0;

  edgekit_model* model = edgekit_open(words[1], &settings, &error);
  if (model == NULL) {
    fprintf(stderr, "%s\n", error.message);
    return 12;
  }
  printf("%s %zu %s\n", edgekit_model_task(model), edgekit_model_class_count(model),
         edgekit_model_class_name(model, 0));
  if (edgekit_model_class_name(model, 1000000) != NULL) code = 13;
  {
    edgekit_verification found;
    if (edgekit_model_verify(model, &found, &error) != 0 || found.state != 2 || strlen(found.message) == 0) code = 18;
    if (edgekit_model_verify(NULL, &found, &error) != 2) code = 19;
  }
  edgekit_session* session = edgekit_session_open(model, &error);
  edgekit_model_free(model); /* the session keeps what it needs */
  edgekit_result* result = edgekit_result_new();
  pixels = malloc((size_t)(width * height));
  memset(pixels, 90, (size_t)(width * height));
  {
    const edgekit_image image = {pixels, width, height, 1, 0}, nothing = {pixels, 0, 0, 3, 0};
    int i;
    for (i = 0; i < 2; ++i)
      if (edgekit_predict(session, &image, &options, result, &error) != 0) code = 14;
    printf("%zu %zu %d\n", edgekit_result_count(result), edgekit_result_class_count(result),
           edgekit_result_truncated(result));
    if (edgekit_predict(session, &nothing, &options, result, &error) != 1) code = 15;
    fprintf(stderr, "%s\n", error.message);
    options.conf = 7;
    if (edgekit_predict(session, &image, &options, result, NULL) != 2) code = 16;
    if (edgekit_predict(session, NULL, NULL, result, &error) != 2) code = 17;
  }
  free(pixels);
  edgekit_result_free(result);
  edgekit_session_free(session);
  edgekit_session_free(NULL);
  return code;
}
