/* edgekit for C and whatever calls C: the same library, with plain structs and codes instead of classes and exceptions.
 *
 *   edgekit_error error;
 *   edgekit_model* model = edgekit_open("yolo12n-ov-fp16", NULL, &error);        // NULL: error.message says why
 *   edgekit_session* session = edgekit_session_open(model, &error);              // one a thread
 *   edgekit_result* result = edgekit_result_new();                               // its memory is used again
 *   if (edgekit_predict(session, &image, NULL, result, &error) == 0)
 *     for (size_t i = 0; i < edgekit_result_count(result); ++i) use(edgekit_result_boxes(result) + 4 * i);
 *
 * Everything made is freed with the function beside it; a model may be freed before its sessions.
 */
#ifndef EDGEKIT_EDGEKIT_H
#define EDGEKIT_EDGEKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edgekit_model edgekit_model;
typedef struct edgekit_session edgekit_session;
typedef struct edgekit_result edgekit_result;

typedef struct edgekit_error { /* filled where something fails; a null pointer may be given instead */
  int kind;                    /* 1 input, 2 usage, 3 missing, 4 unsafe, 5 gate, 6 out of memory or unforeseen */
  char message[1024];          /* the sentence, cut off if need be, always ended */
} edgekit_error;

typedef struct edgekit_image { /* 8-bit pixels of the caller */
  const uint8_t* data;
  int width, height;
  int channels;     /* 1 grey, 3 BGR, 4 BGRA */
  ptrdiff_t stride; /* bytes from row to row, 0: rows follow each other */
} edgekit_image;

typedef struct edgekit_options {
  float conf, iou;
  int max_det;
  const int* classes; /* labels to keep */
  size_t class_count; /* 0: all */
  int agnostic, multi_label, clip;
} edgekit_options;

typedef struct edgekit_settings {
  const char* device; /* NULL: the default */
  int threads, streams, verify;
} edgekit_settings;

void edgekit_default_options(edgekit_options* options);
void edgekit_default_settings(edgekit_settings* settings);

/* NULL settings are the defaults. Warnings, such as of a processor that INT8 loses accuracy on, go to standard error. */
edgekit_model* edgekit_open(const char* folder, const edgekit_settings* settings, edgekit_error* error);
void edgekit_model_free(edgekit_model* model);
const char* edgekit_model_task(const edgekit_model* model);
size_t edgekit_model_class_count(const edgekit_model* model);
const char* edgekit_model_class_name(const edgekit_model* model, size_t label); /* NULL beyond the last */

/* The bundle's self-test on this machine and device. 0, or the kind of the error: it cannot be read or was altered. */
typedef struct edgekit_verification {
  int state; /* 0 passed, 1 failed, 2 the bundle has none */
  double milliseconds;
  char message[1024]; /* one sentence, cut off if need be, always ended */
} edgekit_verification;
int edgekit_model_verify(const edgekit_model* model, edgekit_verification* found, edgekit_error* error);

edgekit_session* edgekit_session_open(const edgekit_model* model, edgekit_error* error);
void edgekit_session_free(edgekit_session* session);

/* 0, or the kind of the error. NULL options are the defaults. */
int edgekit_predict(edgekit_session* session, const edgekit_image* image, const edgekit_options* options,
                    edgekit_result* result, edgekit_error* error);

edgekit_result* edgekit_result_new(void);
void edgekit_result_free(edgekit_result* result);
/* What was found, best first; NULL where the task has none. Valid until the result is used again. */
size_t edgekit_result_count(const edgekit_result* result);
const float* edgekit_result_boxes(const edgekit_result* result);         /* count x 4: x1 y1 x2 y2 */
const float* edgekit_result_rotated_boxes(const edgekit_result* result); /* count x 5: x y width height angle */
const float* edgekit_result_scores(const edgekit_result* result);        /* count */
const int* edgekit_result_labels(const edgekit_result* result);          /* count */
const float* edgekit_result_keypoints(const edgekit_result* result, size_t* points); /* count x points x 3 */
/* Limits that may have kept objects out, added up: 1 the candidates that the model's head keeps, 2 max_det; else 0. */
int edgekit_result_truncated(const edgekit_result* result);
size_t edgekit_result_class_count(const edgekit_result* result);
const float* edgekit_result_probabilities(const edgekit_result* result); /* class count */
/* The mask of object `index`: its pixels (0 or 1, row by row) and where they lie; NULL where there is none. */
const uint8_t* edgekit_result_mask(const edgekit_result* result, size_t index, int* left, int* top, int* width,
                                   int* height);

#ifdef __cplusplus
}
#endif

#endif
